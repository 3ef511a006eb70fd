// The frame: which run, which view, light or dark, and the keys.

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { type Findings, getJson, type RunDetail } from "./api";
import type { Domain, Theme } from "./colour";
import { FindingsView, Verdict } from "./findings";
import { whole } from "./format";
import { Help } from "./help";
import { LayerView, neighbour } from "./layer";
import { useAnswer, useFollowed } from "./live";
import { ModelView } from "./model";
import { NoRuns, RunsView, Status, useRuns } from "./runs";
import { Controls } from "./controls";
import { defaultStatistic, orderOf, portOf } from "./chosen";
import { gutterOf, StripPanel } from "./strip";
import { useTheme } from "./theme";
import { ValuesView } from "./values";
import { type Go, TABS, type Tab, useView, type View } from "./view";

const NAMES: Record<Tab, string> = {
  strip: "Strip chart",
  layer: "Layer",
  findings: "Findings",
  model: "Model",
  values: "Values",
  runs: "Runs",
};

export function App() {
  const [view, go] = useView();
  const [theme, toggleTheme] = useTheme();
  const { runs, problem } = useRuns(view.tab === "runs");
  const name = view.run ?? newest(runs);
  const followed = useFollowed(name);
  const other = useFollowed(view.other);
  const [help, setHelp] = useState(false);
  const detail = followed.detail;
  const { answer: findings } = useFindings(detail, followed.version);
  useKeys(view, go, detail, findings, () => setHelp((now) => !now));
  useEffect(() => {
    document.title = name ? `${name} · fitscope` : "fitscope";
  }, [name]);

  return (
    <>
      <a class="skip" href="#main" onClick={(e) => { e.preventDefault(); document.getElementById("main")?.focus(); }}>
        Skip to the view
      </a>
      <header>
        <h1>
          fit<b>scope</b>
        </h1>
        {runs && runs.length > 0 && (
          <label class="run">
            <span class="hidden">Run</span>
            <select
              value={name}
              onChange={(e) => go({ run: e.currentTarget.value, site: undefined, first: undefined, last: undefined, other: undefined })}
            >
              {!runs.some((run) => run.name === name) && <option value={name}>{name}</option>}
              {runs.map((run) => (
                <option value={run.name}>{run.name}</option>
              ))}
            </select>
          </label>
        )}
        {detail && <Status status={detail.status} />}
        {detail && <Progress detail={detail} />}
        <span class="space" />
        <button type="button" class="quiet" onClick={() => setHelp(true)} aria-label="Keys and help">
          ?
        </button>
        <button type="button" class="quiet" onClick={toggleTheme}>
          {theme === "dark" ? "Light" : "Dark"}
        </button>
      </header>
      <nav aria-label="Views">
        {TABS.map((tab) => (
          <button type="button" aria-current={view.tab === tab ? "page" : undefined} onClick={() => go({ tab })}>
            {NAMES[tab]}
            {tab === "findings" && findings && findings.findings.length > 0 && (
              <span class={`count ${findings.findings[0].severity}`}>{findings.findings.length}</span>
            )}
          </button>
        ))}
      </nav>
      <main id="main" tabIndex={-1}>
        {problem && <p class="problem">{problem}</p>}
        {view.tab === "runs" ? (
          <RunsView runs={runs} view={{ ...view, run: name }} go={go} />
        ) : runs && !runs.length && !view.run ? (
          <NoRuns />
        ) : (
          <>
            {followed.problem && <p class="problem">{followed.problem}</p>}
            {!detail && !followed.problem && <p class="empty">Opening {name ?? "…"}</p>}
            {detail && (
              <Shown key={name} view={{ ...view, run: name }} go={go} theme={theme} detail={detail} version={followed.version} findings={findings} other={other.detail} otherVersion={other.version} otherProblem={other.problem} />
            )}
          </>
        )}
      </main>
      {help && <Help close={() => setHelp(false)} />}
    </>
  );
}

interface ShownProps {
  view: View;
  go: Go;
  theme: Theme;
  detail: RunDetail;
  version: string;
  findings?: Findings;
  other?: RunDetail;
  otherVersion: string;
  otherProblem?: string;
}

function Shown(props: ShownProps) {
  const { view, go, theme, detail, version, findings, other } = props;
  const domains = useRef(new Map<string, Domain>());
  const otherFindings = useFindings(other, props.otherVersion).answer;
  const phase = view.phase ?? "train";
  const range = wholeOf([detail, ...(other ? [other] : [])], phase);
  const gutter = useGutter(view.other !== undefined);
  const names = useMemo(() => {
    if (!other) return undefined;
    const first = orderOf(detail, view, findings).map((i) => detail.sites[i].name);
    const second = orderOf(other, { ...view, port: portOf(detail, view, findings) }, otherFindings).map((i) => other.sites[i].name);
    return [...new Set([...first, ...second])];
  }, [detail.sites, other?.sites, view.port, view.find, view.only, findings, otherFindings]);
  const shared = { view, go, theme, version, findings, detail };
  if (view.tab === "layer") return <LayerView {...shared} whole={wholeOf([detail], phase)} />;
  if (view.tab === "findings") return <FindingsView {...shared} />;
  if (view.tab === "model") return <ModelView {...shared} />;
  if (view.tab === "values") return <ValuesView {...shared} />;
  return (
    <>
      <Notes detail={detail} />
      <Verdict detail={detail} findings={findings} go={go} />
      {detail.sites.length > 0 && <Controls detail={detail} view={view} go={go} findings={findings} />}
      {props.otherProblem && <p class="problem">{props.otherProblem}</p>}
      <div class={view.other ? "panels two" : "panels"}>
        <StripPanel {...shared} domains={domains} whole={range} names={names} gutter={gutter} title={other ? detail.name : undefined} />
        {other && (
          <StripPanel
            {...shared}
            view={{ ...view, run: other.name, stat: view.stat ?? defaultStatistic(findings), port: portOf(detail, view, findings) }}
            detail={other}
            version={props.otherVersion}
            findings={otherFindings}
            domains={domains}
            whole={range}
            names={names}
            gutter={gutter}
            title={other.name}
          />
        )}
      </div>
    </>
  );
}

function useFindings(detail: RunDetail | undefined, version: string) {
  const [again, setAgain] = useState(0);
  const found = useAnswer<Findings>(
    detail ? (signal) => getJson("findings", { run: detail.name }, signal) : null,
    [detail?.name, version, again],
    detail?.name,
  );
  // The server looks for findings now and then, not at each change of the run.
  useEffect(() => {
    if (!found.answer || found.answer.fresh) return;
    const timer = setTimeout(() => setAgain((now) => now + 1), Math.max(2000, found.answer.wait * 1000));
    return () => clearTimeout(timer);
  }, [found.answer]);
  return found;
}

/** What a run is that holds little or nothing, or lost something. */
function Notes({ detail }: { detail: RunDetail }) {
  const notes: string[] = [];
  const held = Object.keys(detail.phases).length > 0;
  if (detail.status === "running" && !held) notes.push("This run has begun and holds no observed step yet; the first step compiles.");
  if (detail.status === "interrupted") {
    notes.push(held ? "The process that wrote this run is gone: it was killed, or it crashed. What it had flushed is shown." : "The process that wrote this run ended before its first observed step.");
  }
  if (detail.status === "finished" && !held) notes.push("This run ended without an observed step.");
  if (detail.status === "failed") notes.push("The training of this run ended with an error.");
  if (detail.lost_steps > 0) notes.push(`${whole(detail.lost_steps)} observed steps were lost: the disk was full, or memory was short.`);
  if (detail.problem) notes.push(detail.problem);
  return (
    <>
      {notes.map((note) => (
        <p class="notice">{note}</p>
      ))}
    </>
  );
}

function Progress({ detail }: { detail: RunDetail }) {
  const train = detail.phases.train ?? Object.values(detail.phases)[0];
  if (!train) return null;
  return (
    <span class="progress" role="status">
      step {whole(train.last)}, {whole(train.observed)} observed
    </span>
  );
}

function wholeOf(details: RunDetail[], phase: string): [number, number] {
  const extents = details.flatMap((detail) => (detail.phases[phase] ? [detail.phases[phase]] : []));
  if (!extents.length) return [0, 0];
  return [Math.min(...extents.map((e) => e.first)), Math.max(...extents.map((e) => e.last))];
}

function newest(runs: { name: string; status: string; created?: string | null }[] | undefined) {
  const good = runs?.filter((run) => run.status !== "broken") ?? [];
  const running = good.filter((run) => run.status === "running");
  const among = running.length ? running : good.length ? good : (runs ?? []);
  return [...among].sort((a, b) => (b.created ?? "").localeCompare(a.created ?? ""))[0]?.name;
}

function useGutter(two: boolean): number {
  const [gutter, setGutter] = useState(gutterOf());
  useEffect(() => {
    const measure = () => setGutter(gutterOf());
    addEventListener("resize", measure);
    return () => removeEventListener("resize", measure);
  }, []);
  return two ? Math.min(gutter, 140) : gutter;
}

function useKeys(view: View, go: Go, detail: RunDetail | undefined, findings: Findings | undefined, help: () => void) {
  useEffect(() => {
    const press = (event: KeyboardEvent) => {
      const target = event.target as HTMLElement;
      if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(target.tagName)) return;
      if (event.key === "?") help();
      const tab = { s: "strip", l: "layer", f: "findings", m: "model", v: "values", r: "runs" }[event.key];
      if (tab) go({ tab: tab as Tab });
      if ((event.key === "j" || event.key === "k") && detail?.sites.length) {
        go({ tab: "layer", site: neighbour(detail, view, findings, event.key === "j" ? 1 : -1) });
      }
    };
    addEventListener("keydown", press);
    return () => removeEventListener("keydown", press);
  });
}
