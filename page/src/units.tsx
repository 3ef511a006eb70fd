// Which units of a layer are on and which are off since when: of its recorded tensors.

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { getUnits, type Site, type Units } from "./api";
import { palette, STEPS, type Theme } from "./colour";
import { whole } from "./format";
import { useAnswer } from "./live";
import { css, onResize, prepared, ticks } from "./paint";

const LEFT = 62;
const RIGHT = 12;
const AXIS = 24;
const TALLEST = 260;
const NAMED = 12; // numbers of units in a list before it is cut short

interface Props {
  run: string;
  site: Site;
  phase: string;
  window: [number, number];
  version: string;
  theme: Theme;
  /** Whether the statistics know dead units of this layer at all. */
  counted: boolean;
}

export function UnitsCard(props: Props) {
  const { run, site, phase, theme } = props;
  const { answer, problem } = useAnswer<Units>(
    (signal) => getUnits({ run, site: site.name, phase }, signal),
    [run, site.name, phase, props.version],
    site.name,
  );
  if (problem) return <p class="problem">{problem}</p>;
  if (!answer) return null;
  if (!answer.steps.length) {
    if (!props.counted || site.port !== "output") return null;
    return (
      <section class="card">
        <h3>Units</h3>
        <p class="dim">
          The statistics count the units that are off; which ones they are takes the values themselves. Add{" "}
          <code>fs.record("{site.path}", every=100)</code> to the scope, and each unit is shown here, with the step since
          which it is off.
        </p>
      </section>
    );
  }
  return <Shown {...props} answer={answer} theme={theme} />;
}

function Shown(props: Props & { answer: Units }) {
  const { answer, site, window: range, theme } = props;
  const place = useRef<HTMLDivElement>(null);
  const canvas = useRef<HTMLCanvasElement>(null);
  const [width, setWidth] = useState(0);
  const [told, setTold] = useState("");
  // Those that are off first, the longest first; then those that are on least.
  const order = useMemo(() => ordered(answer), [answer]);
  const off = answer.since.filter((since) => since >= 0).length;
  useEffect(() => {
    const element = place.current!;
    const measure = () => setWidth(element.clientWidth);
    measure();
    return onResize(element, measure);
  }, []);
  const row = Math.max(1, Math.min(14, Math.floor(TALLEST / order.length)));
  useEffect(() => {
    if (canvas.current && width) draw(canvas.current, answer, order, range, width, row, theme);
  }, [answer, order, width, row, theme, range[0], range[1]]);
  const last = answer.steps[answer.steps.length - 1];
  return (
    <section class="card">
      <h3>Units</h3>
      <p>
        {off === 0 ? (
          <>
            Each of the {whole(answer.units)} units is on for some of the {whole(answer.rows)} recorded samples of step{" "}
            {whole(last)}.
          </>
        ) : (
          <>
            <strong>
              {whole(off)} of {whole(answer.units)} units are off
            </strong>{" "}
            for each of the {whole(answer.rows)} recorded samples of step {whole(last)}:
          </>
        )}
      </p>
      <ul class="units">
        {groups(answer).map(([since, units]) => (
          <li key={since}>
            since step {whole(since)}
            {since === answer.steps[0] ? ", the first that was recorded" : ""}: {listed(units)}
          </li>
        ))}
      </ul>
      <div ref={place} class="fan">
        <canvas
          ref={canvas}
          role="img"
          aria-label={`Units of ${site.name} over recorded steps: ${off} of ${answer.units} are off in the last one`}
          onPointerMove={(event) => setTold(at(canvas.current!, event, answer, order, range, row))}
          onPointerLeave={() => setTold("")}
        />
      </div>
      <p class="read">
        {told ||
          `One row a unit, one column for each of the ${whole(answer.steps.length)} recorded steps${
            answer.steps.length < answer.recorded ? ` shown, of ${whole(answer.recorded)}` : ""
          }; the colour is how much of it is on, and the frame holds those that are off.`}
      </p>
    </section>
  );
}

export function ordered(answer: Units): number[] {
  const columns = answer.steps.length;
  const mean = answer.since.map((_, unit) => {
    let sum = 0;
    for (let i = 0; i < columns; i++) sum += answer.values[unit * columns + i];
    return sum;
  });
  const rank = (unit: number) => (answer.since[unit] < 0 ? Infinity : answer.since[unit]);
  return answer.since
    .map((_, unit) => unit)
    .sort((a, b) => (rank(a) === rank(b) ? mean[a] - mean[b] || a - b : rank(a) - rank(b)));
}

/** Units that went off at the same step, the earliest first. */
function groups(answer: Units): [number, number[]][] {
  const found = new Map<number, number[]>();
  answer.since.forEach((since, unit) => {
    if (since >= 0) found.set(since, [...(found.get(since) ?? []), unit]);
  });
  return [...found].sort((a, b) => a[0] - b[0]).slice(0, 8);
}

function listed(units: number[]): string {
  const word = units.length === 1 ? "unit" : "units";
  const more = units.length - NAMED;
  return `${word} ${units.slice(0, NAMED).join(", ")}${more > 0 ? ` and ${more} more` : ""}`;
}

/** Where each recorded step begins and ends, in pixels: up to the next one. */
function edges(answer: Units, range: [number, number], width: number): [number, number][] {
  const plot = width - LEFT - RIGHT;
  const x = (step: number) => LEFT + ((step - range[0]) / (range[1] - range[0] + 1)) * plot;
  return answer.steps.map((step, i) => {
    const next = answer.steps[i + 1] ?? Math.min(range[1] + 1, step + Math.max(1, step - (answer.steps[i - 1] ?? step)));
    return [Math.max(LEFT, x(step)), Math.min(LEFT + plot, Math.max(x(next), x(step) + 1))];
  });
}

function draw(
  canvas: HTMLCanvasElement,
  answer: Units,
  order: number[],
  range: [number, number],
  width: number,
  row: number,
  theme: Theme,
) {
  const height = order.length * row;
  const context = prepared(canvas, width, height + AXIS);
  const colours = palette(theme, false);
  const places = edges(answer, range, width);
  const columns = places.length;
  context.fillStyle = css("--empty");
  context.fillRect(LEFT, 0, width - LEFT - RIGHT, height);
  order.forEach((unit, line) => {
    for (let i = 0; i < columns; i++) {
      const [left, right] = places[i];
      if (right <= left) continue;
      const share = Math.sqrt(answer.values[unit * columns + i]); // a unit that is rarely on is not off
      const colour = Math.round(share * (STEPS - 1)) * 4;
      context.fillStyle = `rgb(${colours[colour]} ${colours[colour + 1]} ${colours[colour + 2]})`;
      context.fillRect(left, line * row, right - left + 0.5, row);
    }
  });
  context.strokeStyle = css("--warning");
  context.lineWidth = 2;
  const end = places[columns - 1][1];
  for (let line = 0; line < order.length && answer.since[order[line]] >= 0; ) {
    const since = answer.since[order[line]];
    let stop = line;
    while (stop < order.length && answer.since[order[stop]] === since) stop++;
    const left = places[answer.steps.indexOf(since)][0];
    if (end > left) context.strokeRect(left + 1, line * row + 1, end - left - 2, Math.max((stop - line) * row - 2, 1));
    line = stop;
  }
  context.font = `11px ${css("--font")}`;
  context.fillStyle = css("--dim");
  context.textBaseline = "middle";
  context.textAlign = "right";
  const every = Math.ceil(13 / row);
  for (let line = 0; line < order.length; line += every) context.fillText(String(order[line]), LEFT - 6, (line + 0.5) * row);
  context.textAlign = "center";
  const plot = width - LEFT - RIGHT;
  for (const step of ticks(range[0], range[1], plot / 90)) {
    const x = LEFT + ((step - range[0] + 0.5) / (range[1] - range[0] + 1)) * plot;
    context.fillText(whole(step), Math.min(x, LEFT + plot - 12), height + 14);
  }
}

function at(
  canvas: HTMLCanvasElement,
  event: PointerEvent,
  answer: Units,
  order: number[],
  range: [number, number],
  row: number,
): string {
  const box = canvas.getBoundingClientRect();
  const unit = order[Math.floor((event.clientY - box.top) / row)];
  const x = event.clientX - box.left;
  const i = edges(answer, range, box.width).findIndex(([left, right]) => x >= left && x < right);
  if (unit === undefined || i < 0) return "";
  const share = answer.values[unit * answer.steps.length + i];
  const since = answer.since[unit];
  const words = share === 0 ? "off" : `on for ${(share * 100).toPrecision(3)}% of its elements`;
  return `unit ${unit}, step ${whole(answer.steps[i])}: ${words}${since >= 0 ? `; off since step ${whole(since)}` : ""}.`;
}
