// The spread of a layer's values over time: quantiles of its magnitude histograms as a fan.

import { useEffect, useRef, useState } from "preact/hooks";
import { type Fan, getJson } from "./api";
import type { Theme } from "./colour";
import { compact, number, percent, whole } from "./format";
import { useAnswer } from "./live";
import { css, onResize, prepared, ticks } from "./paint";

const HEIGHT = 230;
const LEFT = 62;
const RIGHT = 12;
const AXIS = 24;

interface Props {
  run: string;
  site: string;
  phase: string;
  window: [number, number];
  version: string;
  theme: Theme;
}

export function FanChart(props: Props) {
  const { run, site, phase, window: range } = props;
  const place = useRef<HTMLDivElement>(null);
  const canvas = useRef<HTMLCanvasElement>(null);
  const [width, setWidth] = useState(0);
  const [at, setAt] = useState<number | null>(null);
  const { answer, problem } = useAnswer<Fan>(
    (signal) => getJson("fan", { run, site, phase, first: range[0], last: range[1], columns: 300 }, signal),
    [run, site, phase, range[0], range[1], props.version],
  );
  useEffect(() => {
    const element = place.current!;
    const measure = () => setWidth(element.clientWidth);
    measure();
    return onResize(element, measure);
  }, []);
  useEffect(() => {
    if (canvas.current && width && answer) draw(canvas.current, answer, range, width, at);
  }, [answer, width, range[0], range[1], props.theme, at]);

  const words = answer && at !== null ? describe(answer, at) : answer && describe(answer, answer.first.length - 1);
  return (
    <section class="card">
      <h3>Spread of the values</h3>
      <p class="dim">
        Lines and bands: quantiles from 1% to 99% of the magnitude histogram, right to a quarter of a power of
        two. The axis is linear around zero and logarithmic beyond.
        {answer && answer.read < 1 && ` Drawn from ${percent(answer.read)} of the run's files, evenly spread.`}
      </p>
      <div ref={place} class="fan">
        {problem && <p class="problem">{problem}</p>}
        {answer && !answer.first.length && <p class="empty">No histogram was stored for these steps.</p>}
        <canvas
          ref={canvas}
          role="img"
          aria-label={`Quantiles of ${site} over steps. ${words ?? ""}`}
          onPointerMove={(event) => {
            const box = canvas.current!.getBoundingClientRect();
            const plot = box.width - LEFT - RIGHT;
            const step = range[0] + ((event.clientX - box.left - LEFT) / plot) * (range[1] - range[0] + 1);
            if (answer?.first.length) setAt(nearest(answer, step));
          }}
          onPointerLeave={() => setAt(null)}
        />
      </div>
      <p class="read">{words}</p>
    </section>
  );
}

function nearest(fan: Fan, step: number): number {
  let best = 0;
  for (let i = 0; i < fan.first.length; i++) {
    const middle = (fan.first[i] + fan.last[i]) / 2;
    const known = (fan.first[best] + fan.last[best]) / 2;
    if (Math.abs(middle - step) < Math.abs(known - step)) best = i;
  }
  return best;
}

function describe(fan: Fan, i: number): string {
  if (i < 0 || i >= fan.first.length) return "";
  const steps = fan.first[i] === fan.last[i] ? `step ${whole(fan.first[i])}` : `steps ${whole(fan.first[i])} to ${whole(fan.last[i])}`;
  const values = fan.quantiles.map((q, row) => `${percent(q)}: ${compact(number(fan.values[row][i]))}`);
  return `${steps}: ${values.join(", ")}; zeros ${percent(fan.zeros[i])}, not finite ${percent(fan.nonfinite[i])}.`;
}

function draw(canvas: HTMLCanvasElement, fan: Fan, range: [number, number], width: number, at: number | null) {
  const context = prepared(canvas, width, HEIGHT);
  const plot = width - LEFT - RIGHT;
  const high = HEIGHT - AXIS;
  const known = fan.values.flat().map(number).filter(Number.isFinite);
  if (!known.length) return;
  const sizes = known.map(Math.abs).filter((v) => v > 0).sort((a, b) => a - b);
  const bend = sizes[Math.floor(sizes.length / 4)] || 1;
  const bent = (v: number) => Math.asinh(v / bend);
  let low = Math.min(...known.map(bent));
  let top = Math.max(...known.map(bent));
  if (top - low < 0.1) [low, top] = [low - 0.5, top + 0.5];
  const room = (top - low) * 0.05;
  const y = (v: number) => high - ((bent(v) - low + room) / (top - low + 2 * room)) * (high - 8) - 4;
  const span = range[1] - range[0] + 1;
  const x = (step: number) => LEFT + ((step - range[0] + 0.5) / span) * plot;

  context.font = `11px ${css("--font")}`;
  context.fillStyle = css("--dim");
  context.strokeStyle = css("--line");
  context.textBaseline = "middle";
  context.textAlign = "right";
  for (let i = 0; i <= 4; i++) {
    let value = Math.sinh(low + ((top - low) * i) / 4) * bend;
    if (Math.abs(value) < bend * 1e-6) value = 0;
    const line = y(value);
    context.beginPath();
    context.moveTo(LEFT, line);
    context.lineTo(LEFT + plot, line);
    context.stroke();
    context.fillText(compact(value), LEFT - 6, line);
  }
  context.textAlign = "center";
  for (const step of ticks(range[0], range[1], plot / 90)) context.fillText(whole(step), x(step), HEIGHT - 10);

  const steps = fan.first.map((first, i) => (first + fan.last[i]) / 2);
  const line = (row: number) => fan.values[row].map(number);
  const colour = css("--c1");
  const pairs = Math.floor(fan.quantiles.length / 2);
  context.save();
  context.beginPath();
  context.rect(LEFT, 0, plot, high);
  context.clip();
  for (let pair = 0; pair < pairs; pair++) {
    const [lower, upper] = [line(pair), line(fan.quantiles.length - 1 - pair)];
    context.fillStyle = colour;
    context.globalAlpha = 0.18;
    for (const [start, stop] of stretches(lower)) {
      context.beginPath();
      // A single observation would have no width.
      const pad = start === stop ? 2 : 0;
      for (let i = start; i <= stop; i++) context.lineTo(x(steps[i]) - pad, y(upper[i]));
      if (pad) context.lineTo(x(steps[start]) + pad, y(upper[start]));
      for (let i = stop; i >= start; i--) context.lineTo(x(steps[i]) + pad, y(lower[i]));
      if (pad) context.lineTo(x(steps[start]) - pad, y(lower[start]));
      context.fill();
    }
  }
  context.globalAlpha = 1;
  context.strokeStyle = colour;
  context.lineWidth = 2;
  const middle = line(pairs);
  for (const [start, stop] of stretches(middle)) {
    context.beginPath();
    for (let i = start; i <= stop; i++) context.lineTo(x(steps[i]), y(middle[i]));
    context.stroke();
  }
  if (at !== null && at < steps.length) {
    context.strokeStyle = css("--ink");
    context.lineWidth = 1;
    context.beginPath();
    context.moveTo(x(steps[at]), 0);
    context.lineTo(x(steps[at]), high);
    context.stroke();
  }
  context.restore();
}

/** Where a line is known: gaps stay gaps. */
function stretches(values: number[]): [number, number][] {
  const found: [number, number][] = [];
  let start = -1;
  for (let i = 0; i <= values.length; i++) {
    const here = i < values.length && Number.isFinite(values[i]);
    if (here && start < 0) start = i;
    if (!here && start >= 0) {
      found.push([start, i - 1]);
      start = -1;
    }
  }
  return found;
}
