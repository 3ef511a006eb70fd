// The table of runs, with search, and the choice of two to compare.

import { useEffect, useState } from "preact/hooks";
import { getJson, type RunLine } from "./api";
import { when, whole } from "./format";
import type { Go, View } from "./view";

const EVERY = 4000;
const SELDOM = 10_000; // while a run is shown, beside its training

export function useRuns(wanted: boolean): { runs?: RunLine[]; problem?: string } {
  const [state, setState] = useState<{ runs?: RunLine[]; problem?: string }>({});
  useEffect(() => {
    const ending = new AbortController();
    let timer = 0;
    let some = false;
    const tick = async () => {
      try {
        if (!document.hidden) {
          const { runs } = await getJson<{ runs: RunLine[] }>("runs", {}, ending.signal);
          some = runs.length > 0;
          setState((now) => (JSON.stringify(now.runs) === JSON.stringify(runs) && !now.problem ? now : { runs }));
        }
      } catch (error) {
        if (ending.signal.aborted) return;
        setState((now) => ({ ...now, problem: (error as Error).message }));
      }
      timer = window.setTimeout(tick, wanted || !some ? EVERY : SELDOM);
    };
    void tick();
    return () => {
      ending.abort();
      clearTimeout(timer);
    };
  }, [wanted]);
  return state;
}

export function Status({ status }: { status: string }) {
  const signs: Record<string, string> = { running: "▶", finished: "✓", interrupted: "!", failed: "✕", broken: "✕" };
  return (
    <span class={`status ${status}`}>
      <span aria-hidden="true">{signs[status] ?? "•"}</span> {status}
    </span>
  );
}

export function RunsView(props: { runs?: RunLine[]; view: View; go: Go }) {
  const { runs, view, go } = props;
  const [find, setFind] = useState("");
  const [chosen, setChosen] = useState<string[]>([]);
  if (!runs) return <p class="empty">Looking for runs …</p>;
  if (!runs.length) return <NoRuns />;
  const words = find.toLowerCase().split(/\s+/).filter(Boolean);
  const shown = runs.filter((run) => {
    const text = [run.name, run.model, run.backend, run.status, run.host, ...(run.command ?? [])].join(" ").toLowerCase();
    return words.every((word) => text.includes(word));
  });
  const toggle = (name: string) =>
    setChosen((now) => (now.includes(name) ? now.filter((each) => each !== name) : [...now, name].slice(-2)));
  return (
    <>
      <div class="controls">
        <label>
          Search
          <input type="search" placeholder="name, model, backend, status" value={find} onInput={(e) => setFind(e.currentTarget.value)} />
        </label>
        <button
          type="button"
          disabled={chosen.length !== 2}
          onClick={() => go({ tab: "strip", run: chosen[0], other: chosen[1], first: undefined, last: undefined })}
        >
          Compare the two chosen runs
        </button>
        {view.other && (
          <button type="button" onClick={() => go({ other: undefined })}>
            Stop comparing with {view.other}
          </button>
        )}
      </div>
      <div class="scroll" tabIndex={0} role="region" aria-label="Runs">
        <table>
          <thead>
            <tr>
              <th>Compare</th>
              <th>Run</th>
              <th>Status</th>
              <th>Model</th>
              <th>Backend</th>
              <th class="right">Last step written</th>
              <th>Begun</th>
              <th>Commit</th>
            </tr>
          </thead>
          <tbody>
            {shown.map((run) => (
              <tr key={run.name} class={run.name === view.run ? "current" : ""}>
                <td>
                  <input
                    type="checkbox"
                    aria-label={`Compare ${run.name}`}
                    disabled={run.status === "broken"}
                    checked={chosen.includes(run.name)}
                    onChange={() => toggle(run.name)}
                  />
                </td>
                <td>
                  <button
                    type="button"
                    class="link strong"
                    onClick={() => go({ tab: "strip", run: run.name, other: undefined, site: undefined, first: undefined, last: undefined })}
                  >
                    {run.name}
                  </button>
                  {run.problem && <div class="problem small">{run.problem}</div>}
                </td>
                <td>
                  <Status status={run.status} />
                </td>
                <td>{run.model ?? "–"}</td>
                <td>{run.backend ?? "–"}</td>
                <td class="right">{typeof run.last_step === "number" && run.last_step >= 0 ? whole(run.last_step) : "–"}</td>
                <td>{when(run.created)}</td>
                <td>
                  {run.git ? `${run.git.commit.slice(0, 7)}${run.git.changed ? " + changes" : ""}` : "–"}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {!shown.length && <p class="empty">No run matches “{find}”.</p>}
    </>
  );
}

export function NoRuns() {
  return (
    <div class="empty">
      <p>There is no run here yet.</p>
      <p>
        Give a scope a directory, <code>fs.Scope(run="runs/first")</code>, or try <code>fitscope demo</code>. This page
        shows a run as soon as it begins.
      </p>
    </div>
  );
}
