// Recorded tensors: which, of which step, of which sample; and what was predicted beside what was so.

import { useEffect, useRef } from "preact/hooks";
import { getJson, getTensor, type Recorded, type RunDetail, type Tensor } from "./api";
import { Batch, PREDICTED, partsOf } from "./batch";
import type { Theme } from "./colour";
import { shape, whole } from "./format";
import { useAnswer } from "./live";
import { type Axes, axesOf, tailOf } from "./planes";
import { TensorPicture } from "./tensor";
import type { Go, View } from "./view";

interface Props {
  detail: RunDetail;
  view: View;
  go: Go;
  theme: Theme;
  version: string;
}

export function ValuesView(props: Props) {
  const { detail, view, go } = props;
  const { answer, problem } = useAnswer<{ recorded: Recorded[] }>(
    (signal) => getJson("recorded", { run: detail.name }, signal),
    [detail.name, props.version],
  );
  const all = (answer?.recorded ?? []).filter((each) => each.steps.length);
  const chosen = all.find((each) => each.name === view.tensor) ?? all.find((each) => !each.name.startsWith("@")) ?? all[0];
  const place = chosen ? nearest(chosen, view.step, view.phase) : 0;
  // A key that is held comes again before the page is drawn anew.
  const now = useRef({ place: 0, sample: 0 });
  now.current = { place, sample: view.sample ?? 0 };
  const move = (to: number) => {
    const at = Math.max(0, Math.min(chosen.steps.length - 1, to));
    now.current.place = at;
    go({ step: chosen.steps[at], phase: chosen.phases[at], tensor: chosen.name }, true);
  };
  useEffect(() => {
    if (!chosen) return;
    const press = (event: KeyboardEvent) => {
      const typing = /^(INPUT|SELECT|TEXTAREA)$/.test((event.target as HTMLElement).tagName);
      if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "," || event.key === ".") move(now.current.place + (event.key === "." ? 1 : -1));
      if (event.key === "[" || event.key === "]") {
        now.current.sample = Math.max(0, now.current.sample + (event.key === "]" ? 1 : -1));
        go({ sample: now.current.sample }, true);
      }
    };
    addEventListener("keydown", press);
    return () => removeEventListener("keydown", press);
  });
  if (problem) return <p class="problem">{problem}</p>;
  if (!answer) return <p class="empty">Looking for recorded values …</p>;
  if (!chosen) return <NoValues name={detail.name} />;
  return (
    <>
      <div class="controls">
        <label>
          Recorded
          <select value={chosen.name} onChange={(e) => go({ tensor: e.currentTarget.value, axes: undefined })}>
            {all.map((each) => (
              <option value={each.name}>{each.name}</option>
            ))}
          </select>
        </label>
        <label class="slide">
          Step {whole(chosen.steps[place])}, {chosen.phases[place]} ({whole(place + 1)} of {whole(chosen.steps.length)} recorded)
          <input
            type="range"
            min={0}
            max={chosen.steps.length - 1}
            value={place}
            aria-valuetext={`step ${chosen.steps[place]}, ${chosen.phases[place]}`}
            onInput={(e) => move(Number(e.currentTarget.value))}
          />
        </label>
        <button type="button" disabled={place === 0} onClick={() => move(place - 1)}>
          Earlier <kbd>,</kbd>
        </button>
        <button type="button" disabled={place === chosen.steps.length - 1} onClick={() => move(place + 1)}>
          Later <kbd>.</kbd>
        </button>
      </div>
      <Shown {...props} chosen={chosen} step={chosen.steps[place]} phase={chosen.phases[place]} all={all} />
    </>
  );
}

/** The recording of a step, or the one closest to it: not every site is recorded in the same steps. */
export function nearest(recorded: Recorded, step: number | undefined, phase: string | undefined): number {
  const { steps, phases } = recorded;
  if (step === undefined) return steps.length - 1;
  let best = steps.length - 1;
  const far = (i: number) => Math.abs(steps[i] - step) + (phase && phases[i] !== phase ? 1e15 : 0);
  for (let i = steps.length - 1; i >= 0; i--) if (far(i) < far(best)) best = i;
  return best;
}

function Shown(props: Props & { chosen: Recorded; step: number; phase: string; all: Recorded[] }) {
  const { detail, view, go, chosen, step, phase, all } = props;
  const asked = { run: detail.name, step, phase };
  const { answer, problem } = useAnswer<Tensor>(
    (signal) => getTensor({ ...asked, site: chosen.name }, signal),
    [detail.name, chosen.name, step, phase],
    chosen.name,
  );
  const names = partsOf(all, step, phase);
  const batch = useAnswer<Record<string, Tensor>>(
    names.some((name) => name.startsWith(PREDICTED))
      ? async (signal) => {
          const found = await Promise.all(names.map((site) => getTensor({ ...asked, site }, signal)));
          return Object.fromEntries(names.map((name, i) => [name, found[i]]));
        }
      : null,
    [detail.name, step, phase, names.join("\n")],
    names.join("\n"),
  );
  const rows = answer?.has_rows ? answer.shape[0] : 1;
  const sample = Math.max(0, Math.min(view.sample ?? 0, rows - 1));
  const tail = answer ? tailOf(answer) : [];
  const single = answer?.has_rows && answer.shape.length > 1 && rows > 0;
  const axes = (view.axes as Axes | undefined) ?? axesOf(chosen, tail);
  return (
    <>
      {problem && <p class="problem">{problem}</p>}
      {answer && (
        <>
          {(single || tail.length >= 3) && (
            <div class="controls">
              {single && (
                <label class="slide">
                  Sample {answer.positions[sample]} of the batch
                  <input
                    type="range"
                    min={0}
                    max={rows - 1}
                    value={sample}
                    aria-valuetext={`sample ${answer.positions[sample]}`}
                    onInput={(e) => go({ sample: Number(e.currentTarget.value) }, true)}
                  />
                </label>
              )}
              {tail.length >= 3 && (
                <label>
                  One map for each
                  <select value={axes} onChange={(e) => go({ axes: e.currentTarget.value })}>
                    <option value="last">channel (last axis)</option>
                    <option value="first">head (first axis)</option>
                  </select>
                </label>
              )}
            </div>
          )}
          <p class="dim">
            {!chosen.name.startsWith("@") && `${chosen.class} `}
            {shape(answer.whole)}, {chosen.dtype}, epoch {answer.epoch}
            {answer.length !== null && answer.has_rows && answer.length > rows && `; ${rows} of ${answer.length} rows are shown`}.
          </p>
          {rows > 0 ? (
            <section class="card">
              <TensorPicture
                name={chosen.name}
                tensor={answer}
                sample={sample}
                axes={axes}
                theme={props.theme}
                label={`${chosen.name} in step ${step}${single ? `, sample ${answer.positions[sample]}` : ""}`}
              />
            </section>
          ) : (
            <p class="empty">No row of this batch was recorded.</p>
          )}
        </>
      )}
      {batch.answer && (
        <Batch
          tensors={batch.answer}
          theme={props.theme}
          chosen={single ? answer.positions[sample] : undefined}
          onSample={(position) => {
            const at = answer?.has_rows ? answer.positions.indexOf(position) : position;
            if (at >= 0) go({ sample: at });
          }}
        />
      )}
    </>
  );
}

function NoValues({ name }: { name: string }) {
  return (
    <div class="empty">
      <p>
        The run “{name}” holds no recorded values: a scope keeps statistics and histograms of the steps it observes, and
        tensors only where it is told to.
      </p>
      <p>
        <code>fs.record("conv*", samples=16, every=100)</code> in a scope keeps what layers put out,{" "}
        <code>fs.record(fs.BATCH, every=100)</code> the batch, its prediction and the loss of each sample.
      </p>
    </div>
  );
}
