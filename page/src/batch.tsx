// What was predicted beside what was so, sample by sample, the largest loss first.

import { useMemo, useState } from "preact/hooks";
import type { Recorded, Tensor } from "./api";
import type { Theme } from "./colour";
import { compact, percent, whole } from "./format";
import { tailOf } from "./planes";
import { MiniBars, MiniMap, Scatter } from "./thumbnails";

export const PREDICTED = "@batch/y_pred";
const Y = "@batch/y";
const LOSS = "@batch/loss";
const X = "@batch/x";
const FIRST = 48; // rows before the reader asks for all

interface Output {
  /** What tells the outputs of a model apart: `[logits]`, `#1`; empty for the only one. */
  suffix: string;
  predicted: Tensor;
  y?: Tensor;
  loss?: Tensor;
}

/** The parts of the batch that were recorded in a step. */
export function partsOf(all: Recorded[], step: number, phase: string): string[] {
  const wanted = (name: string) => name === X || [Y, PREDICTED, LOSS].some((part) => name === part || /^[#[]/.test(name.slice(part.length)) && name.startsWith(part));
  return all
    .filter((each) => wanted(each.name) && each.steps.some((s, i) => s === step && each.phases[i] === phase))
    .map((each) => each.name);
}

interface Props {
  tensors: Record<string, Tensor>;
  theme: Theme;
  /** The sample that is shown above, by its place in the batch. */
  chosen?: number;
  onSample: (position: number) => void;
}

export function Batch(props: Props) {
  const { tensors } = props;
  const outputs = Object.keys(tensors)
    .filter((name) => name.startsWith(PREDICTED))
    .map((name): Output => {
      const suffix = name.slice(PREDICTED.length);
      const call = suffix.replace(/\[.*$/, "");
      const pick = (part: string) => tensors[part + suffix] ?? tensors[part + call] ?? tensors[part];
      return { suffix, predicted: tensors[name], y: pick(Y), loss: pick(LOSS) };
    });
  const x = tensors[X] && isImage(tensors[X]) ? tensors[X] : undefined;
  return (
    <>
      {outputs.map((output) => (
        <OutputTable key={output.suffix} {...props} output={output} x={x} />
      ))}
    </>
  );
}

function OutputTable(props: Props & { output: Output; x?: Tensor }) {
  const { output, x, theme } = props;
  const { predicted, y, loss } = output;
  const [all, setAll] = useState(false);
  const rows = useMemo(() => rowsOf(output), [predicted, y, loss]);
  const right = rows.filter((row) => row.hit === true).length;
  const judged = rows.filter((row) => row.hit !== undefined).length;
  const numbers = y && sizeOf(predicted) === 1 && sizeOf(y) === 1 && judged === 0;
  if (!rows.length) return null;
  const shown = all ? rows : rows.slice(0, FIRST);
  const known = rows.filter((row) => !Number.isNaN(row.loss));
  return (
    <section>
      <h2>
        The batch{output.suffix && `, ${output.suffix}`}, the largest loss first
      </h2>
      <p class="dim">
        {judged > 0 && `${whole(right)} of ${whole(judged)} right. `}
        {known.length > 0 && `Mean loss ${compact(known.reduce((sum, row) => sum + row.loss, 0) / known.length)} over ${whole(known.length)} samples.`}
        {!loss && " The loss of each sample is not known for this model."}
      </p>
      {numbers && <Scatter y={rows.map((row) => y.values[row.yAt])} predicted={rows.map((row) => predicted.values[row.place])} theme={theme} />}
      <div class="scroll" tabIndex={0} role="region" aria-label={`The batch${output.suffix}`}>
        <table class="batch">
          <thead>
            <tr>
              <th>Sample</th>
              {x && <th>x</th>}
              {y && <th>y</th>}
              <th>y_pred</th>
              <th class="right">Loss</th>
            </tr>
          </thead>
          <tbody>
            {shown.map((row) => (
              <tr key={row.at} class={row.at === props.chosen ? "current" : ""}>
                <td>
                  <button type="button" class="link" onClick={() => props.onSample(row.at)}>
                    {row.at}
                  </button>
                </td>
                {x && (
                  <td>
                    <MiniMap tensor={x} row={x.positions.indexOf(row.at)} theme={theme} label={`x of sample ${row.at}`} />
                  </td>
                )}
                {y && (
                  <td>
                    <Told tensor={y} row={row.yAt} theme={theme} label={`y of sample ${row.at}`} />
                  </td>
                )}
                <td>
                  <Told tensor={predicted} row={row.place} theme={theme} label={`y_pred of sample ${row.at}`} label_at={row.label} hit={row.hit} />
                </td>
                <td class="right">{compact(row.loss)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {rows.length > shown.length && (
        <button type="button" onClick={() => setAll(true)}>
          All {whole(rows.length)} samples
        </button>
      )}
    </section>
  );
}

/** A row: an image, bars with the largest in words, or a number. */
function Told(props: { tensor: Tensor; row: number; theme: Theme; label: string; label_at?: number; hit?: boolean }) {
  const { tensor, row, hit } = props;
  if (row < 0) return <>–</>;
  const size = sizeOf(tensor);
  const values = tensor.values.subarray(row * size, (row + 1) * size);
  const mark = hit !== undefined && (
    <span class={hit ? "hit" : "miss"}>
      {hit ? "✓" : "✗"}
      <span class="hidden">{hit ? "right" : "wrong"}</span>{" "}
    </span>
  );
  if (size === 1) {
    return (
      <>
        {mark}
        {compact(values[0])}
      </>
    );
  }
  if (isImage(tensor)) return <MiniMap {...props} />;
  const most = largest(values);
  return (
    <span class="told">
      <MiniBars {...props} values={values} marked={props.label_at} />
      <span>
        {mark}
        largest at {most}: {values[most] >= 0 && values[most] <= 1 ? percent(values[most]) : compact(values[most])}
      </span>
    </span>
  );
}

interface Row {
  at: number;
  place: number;
  yAt: number;
  loss: number;
  /** The class that y names, where y_pred is one number for each class. */
  label?: number;
  hit?: boolean;
}

export function rowsOf({ predicted, y, loss }: Omit<Output, "suffix">): Row[] {
  const size = sizeOf(predicted);
  // Each may have recorded other rows of the batch: they are joined by their place in it.
  const placeIn = (tensor: Tensor | undefined, at: number) => tensor?.positions.indexOf(at) ?? -1;
  const classes = tailOf(predicted).length === 1 && size > 1 && y !== undefined;
  // One number for yes or no: probabilities; of logits nobody can tell.
  const binary = size === 1 && y !== undefined && sizeOf(y) === 1 && y.values.every((v) => v === 0 || v === 1) && predicted.values.every((v) => v >= 0 && v <= 1);
  return predicted.positions
    .map((at, place): Row => {
      const yAt = placeIn(y, at);
      const lossAt = placeIn(loss, at);
      const row: Row = { at, place, yAt, loss: loss && lossAt >= 0 && sizeOf(loss) === 1 ? loss.values[lossAt] : mean(loss, lossAt) };
      if (binary && yAt >= 0) return { ...row, hit: predicted.values[place] > 0.5 === (y.values[yAt] === 1) };
      if (!classes || yAt < 0) return row;
      const own = y.values.subarray(yAt * sizeOf(y), (yAt + 1) * sizeOf(y));
      const label = labelOf(own, size);
      if (label === undefined) return row;
      return { ...row, label, hit: largest(predicted.values.subarray(place * size, (place + 1) * size)) === label };
    })
    .sort((a, b) => (Number.isNaN(b.loss) ? -Infinity : b.loss) - (Number.isNaN(a.loss) ? -Infinity : a.loss) || a.at - b.at);
}

/** A class number, or the place of the one in a one-hot row. */
function labelOf(own: Float32Array, classes: number): number | undefined {
  if (own.length === 1) return Number.isInteger(own[0]) && own[0] >= 0 && own[0] < classes ? own[0] : undefined;
  if (own.length !== classes) return undefined;
  const ones = own.filter((value) => value === 1).length;
  return ones === 1 && own.every((value) => value === 0 || value === 1) ? own.indexOf(1) : undefined;
}

function largest(values: Float32Array): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i] > values[best] || Number.isNaN(values[best])) best = i;
  return best;
}

/** A loss of each pixel or position: the mean over the sample. */
function mean(loss: Tensor | undefined, row: number): number {
  if (!loss || row < 0) return NaN;
  const size = sizeOf(loss);
  return loss.values.subarray(row * size, (row + 1) * size).reduce((sum, value) => sum + value, 0) / size;
}

function sizeOf(tensor: Tensor): number {
  return tailOf(tensor).reduce((a, b) => a * b, 1);
}

export function isImage(tensor: Tensor): boolean {
  const tail = tailOf(tensor);
  return (tail.length === 3 && tail[2] <= 4 && tail[0] > 3 && tail[1] > 3) || (tail.length === 2 && tail[0] > 3 && tail[1] > 3);
}
