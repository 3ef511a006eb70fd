// Recorded tensors: which, of which step, of which sample; and what was predicted beside what was so.

import { useMemo } from "preact/hooks";
import { getJson, getTensor, type Recorded, type RunDetail, type Tensor } from "./api";
import type { Theme } from "./colour";
import { compact, shape, whole } from "./format";
import { useAnswer } from "./live";
import { TensorPicture } from "./tensor";
import type { Go, View } from "./view";

interface Props {
  detail: RunDetail;
  view: View;
  go: Go;
  theme: Theme;
  version: string;
}

const Y = "@batch/y";
const PREDICTED = "@batch/y_pred";
const LOSS = "@batch/loss";

export function ValuesView(props: Props) {
  const { detail, view, go } = props;
  const { answer, problem } = useAnswer<{ recorded: Recorded[] }>(
    (signal) => getJson("recorded", { run: detail.name }, signal),
    [detail.name, props.version],
  );
  if (problem) return <p class="problem">{problem}</p>;
  if (!answer) return <p class="empty">Looking for recorded values …</p>;
  const all = answer.recorded.filter((each) => each.steps.length);
  if (!all.length) return <NoValues name={detail.name} />;
  const chosen = all.find((each) => each.name === view.tensor) ?? all[0];
  const exact = chosen.steps.findIndex(
    (step, i) => step === view.step && (!view.phase || chosen.phases[i] === view.phase),
  );
  const place = exact >= 0 ? exact : chosen.steps.length - 1;
  return (
    <>
      <div class="controls">
        <label>
          Recorded
          <select value={chosen.name} onChange={(e) => go({ tensor: e.currentTarget.value, sample: undefined })}>
            {all.map((each) => (
              <option value={each.name}>{each.name}</option>
            ))}
          </select>
        </label>
        <label>
          Step {whole(chosen.steps[place])}, {chosen.phases[place]}
          <input
            type="range"
            min={0}
            max={chosen.steps.length - 1}
            value={place}
            onInput={(e) => {
              const at = Number(e.currentTarget.value);
              go({ step: chosen.steps[at], phase: chosen.phases[at], tensor: chosen.name }, true);
            }}
          />
        </label>
      </div>
      <Shown {...props} chosen={chosen} step={chosen.steps[place]} phase={chosen.phases[place]} all={all} />
    </>
  );
}

function Shown(props: Props & { chosen: Recorded; step: number; phase: string; all: Recorded[] }) {
  const { detail, view, go, chosen, step, phase, all } = props;
  const asked = { run: detail.name, step, phase };
  const { answer, problem } = useAnswer<Tensor & { of: string }>(
    async (signal) => ({ ...(await getTensor({ ...asked, site: chosen.name }, signal)), of: chosen.name }),
    [detail.name, chosen.name, step, phase],
  );
  const batch = useAnswer<Record<string, Tensor>>(
    async (signal) => {
      const names = [Y, PREDICTED, LOSS].filter((name) =>
        all.some((each) => each.name === name && each.steps.some((s, i) => s === step && each.phases[i] === phase)),
      );
      const found = await Promise.all(names.map((site) => getTensor({ ...asked, site }, signal)));
      return Object.fromEntries(names.map((name, i) => [name, found[i]]));
    },
    [detail.name, step, phase, all.length],
  );
  if (problem) return <p class="problem">{problem}</p>;
  if (!answer || answer.of !== chosen.name) return null;
  const rows = answer.has_rows ? answer.shape[0] : 1;
  const sample = Math.min(view.sample ?? 0, rows - 1);
  const single = answer.has_rows && answer.shape.length > 1;
  return (
    <>
      {single && (
        <div class="controls">
          <label>
            Sample {answer.positions[sample]} of the batch
            <input
              type="range"
              min={0}
              max={rows - 1}
              value={sample}
              onInput={(e) => go({ sample: Number(e.currentTarget.value) }, true)}
            />
          </label>
        </div>
      )}
      <p class="dim">
        {chosen.class} {shape(answer.whole)}, {chosen.dtype}, epoch {answer.epoch}
        {answer.length !== null && answer.has_rows && answer.length > rows && `; ${rows} of ${answer.length} rows are shown`}.
      </p>
      <section class="card">
        <TensorPicture
          tensor={answer}
          sample={sample}
          theme={props.theme}
          label={`${chosen.name} in step ${step}${single ? `, sample ${answer.positions[sample]}` : ""}`}
        />
      </section>
      {batch.answer && <Batch tensors={batch.answer} />}
    </>
  );
}

function Batch({ tensors }: { tensors: Record<string, Tensor> }) {
  const { [Y]: y, [PREDICTED]: predicted, [LOSS]: loss } = tensors;
  const rows = useMemo(() => {
    if (!predicted || !y) return [];
    // Each may have recorded other rows of the batch: they are joined by their place in it.
    const place = (tensor: Tensor | undefined, at: number) => tensor?.positions.indexOf(at) ?? -1;
    return predicted.positions
      .map((at, i) => ({
        at,
        y: told(y, place(y, at)),
        predicted: told(predicted, i),
        loss: loss && place(loss, at) >= 0 ? loss.values[place(loss, at)] : NaN,
      }))
      .sort((a, b) => (Number.isNaN(b.loss) ? 0 : b.loss) - (Number.isNaN(a.loss) ? 0 : a.loss));
  }, [tensors]);
  if (!rows.length) return null;
  return (
    <section>
      <h2>The batch, the largest loss first</h2>
      <div class="scroll" tabIndex={0} role="region" aria-label="The batch">
        <table>
          <thead>
            <tr>
              <th>Sample</th>
              <th>y</th>
              <th>y_pred</th>
              <th class="right">Loss</th>
            </tr>
          </thead>
          <tbody>
            {rows.map((row) => (
              <tr key={row.at}>
                <td>{row.at}</td>
                <td>{row.y}</td>
                <td>{row.predicted}</td>
                <td class="right">{compact(row.loss)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </section>
  );
}

/** A row in a few words: a number, or the place of the largest of several. */
function told(tensor: Tensor, row: number): string {
  if (row < 0) return "–";
  const size = tensor.shape.slice(1).reduce((a, b) => a * b, 1);
  const values = tensor.values.subarray(row * size, (row + 1) * size);
  if (size === 1) return compact(values[0]);
  if (tensor.shape.length !== 2) return `${tensor.shape.slice(1).join(" × ")} values`;
  const most = values.indexOf(Math.max(...values));
  return `largest at ${most}: ${compact(values[most])}`;
}

function NoValues({ name }: { name: string }) {
  return (
    <div class="empty">
      <p>
        The run “{name}” holds no recorded values: a scope keeps statistics and histograms of the steps it observes, and
        tensors only where it is told to.
      </p>
    </div>
  );
}
