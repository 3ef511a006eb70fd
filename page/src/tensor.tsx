// One recorded tensor as pictures: maps as a grid, sequences as a heat map, vectors as bars.

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import type { Tensor } from "./api";
import { domainOf, type Theme } from "./colour";
import { compact, exact, whole } from "./format";
import { css, onResize, prepared } from "./paint";
import { colourImage, mapOf, put } from "./pixels";
import { type Axes, isColourImage, type Picture, pictureOf, tailOf, vectorOf } from "./planes";

interface Props {
  name: string;
  tensor: Tensor;
  sample: number;
  axes: Axes;
  theme: Theme;
  label: string;
}

interface Layout {
  scale: number;
  across: number;
  left: number;
  top: number;
  cellWidth: number;
  cellHeight: number;
}

/** Where the pointer or the arrow keys are: of maps which, and where in it; of bars which. */
interface Cursor {
  i: number;
  row: number;
  column: number;
}

const BARS = 190;
const LEFT = 52;
const STEPS: Record<string, [number, number]> = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

export function TensorPicture(props: Props) {
  const { name, tensor, sample, axes, theme, label } = props;
  const picture = useMemo(() => pictureOf(tensor, sample, axes), [tensor, sample, axes]);
  const vector = useMemo(() => vectorOf(tensor, sample), [tensor, sample]);
  const domain = useMemo(() => domainOf(tensor.values), [tensor]);
  const coloured = isColourImage(name, tensor);
  const place = useRef<HTMLDivElement>(null);
  const canvas = useRef<HTMLCanvasElement>(null);
  const [width, setWidth] = useState(0);
  const [cursor, setCursor] = useState<Cursor | null>(null);
  useEffect(() => {
    const element = place.current;
    if (!element) return;
    const measure = () => setWidth(element.clientWidth);
    measure();
    return onResize(element, measure);
  }, []);
  useEffect(() => {
    if (!canvas.current || !width) return;
    if (picture && coloured) drawColour(canvas.current, picture, domain, width);
    else if (picture) drawPlanes(canvas.current, picture, domain, theme, width, cursor);
    else if (vector) drawBars(canvas.current, vector, numbers(tensor), width, cursor);
  }, [picture, vector, theme, domain, width, coloured, cursor]);
  useEffect(() => setCursor(null), [name, axes]);
  const point = (event: PointerEvent) => {
    const box = canvas.current!.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    if (picture && !coloured) setCursor(cellAt(picture, width, x, y));
    else if (vector) setCursor(barAt(vector, width, x));
  };
  const press = (event: KeyboardEvent) => {
    const step = STEPS[event.key];
    if (event.key === "Escape") setCursor(null);
    if (!step || coloured || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    setCursor(moved(cursor, step, picture, vector));
  };
  const told = cursor && (picture ? cellWords(picture, cursor) : vector && barWords(vector, numbers(tensor), cursor));
  return (
    <>
      <div class="fan" ref={place}>
        <canvas
          ref={canvas}
          role="application"
          tabIndex={0}
          aria-label={`${label}. Arrow keys tell the numbers.`}
          onPointerMove={point}
          onPointerLeave={() => setCursor(null)}
          onKeyDown={press}
        />
      </div>
      {picture && !coloured && Number.isFinite(domain.low) && <MapLegend domain={domain} theme={theme} />}
      <p class="read" role="status">{told || caption(picture, domain, tailOf(tensor), coloured)}</p>
    </>
  );
}

function MapLegend({ domain, theme }: { domain: { low: number; high: number }; theme: Theme }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const end = Math.max(Math.abs(domain.low), Math.abs(domain.high));
  const ends = domain.low < 0 ? { low: -end, high: end } : domain;
  useEffect(() => {
    const plane = { height: 1, width: 160, at: (_: number, x: number) => ends.low + (x / 159) * (ends.high - ends.low), title: "" };
    put(prepared(canvas.current!, 160, 10), mapOf(plane, ends, theme), 0, 0, 160, 10);
  }, [ends.low, ends.high, theme]);
  return (
    <p class="map-legend dim">
      {compact(ends.low)} <canvas ref={canvas} aria-hidden="true" /> {compact(ends.high)}
    </p>
  );
}

/** What the bars are numbered by: places in a vector, or samples of the batch. */
function numbers(tensor: Tensor): number[] | undefined {
  return tailOf(tensor).length === 0 && tensor.has_rows ? tensor.positions : undefined;
}

function caption(picture: Picture | undefined, domain: { low: number; high: number }, tail: number[], coloured: boolean): string {
  const range = Number.isFinite(domain.low)
    ? `from ${compact(domain.low)} to ${compact(domain.high)} in the recorded rows`
    : "nothing finite in the recorded rows";
  if (coloured) return `A colour image; ${range}.`;
  if (!picture) return `${whole(tail[0] ?? 1)} ${(tail[0] ?? 1) === 1 ? "number" : "numbers"}, ${range}.`;
  const signs = domain.low < 0 ? "; blue is negative, orange positive" : "";
  const { planes, one, down, right, hidden } = picture;
  const many = planes.length === 1 ? "" : `${whole(planes.length)} ${one}s${hidden ? ` of ${whole(planes.length + hidden)}` : ""}, `;
  return `${many}${down} downwards, ${right} to the right; ${range}${signs}.`;
}

function layOut(picture: Picture, width: number): Layout {
  const { planes } = picture;
  const { height: h, width: w } = planes[0];
  const single = planes.length === 1;
  const most = single ? Math.min(width, 900) : Math.min(width, picture.one === "head" ? 220 : 150);
  const fitting = Math.min(most / w, 420 / h, single ? 24 : 16);
  // A map that is wider than the window is made smaller; others have whole pixels for each number.
  const scale = fitting >= 1 ? Math.floor(fitting) : fitting;
  const gap = single ? 0 : 8;
  const top = single ? 0 : 14;
  const cellWidth = w * scale + gap;
  return { scale, across: Math.max(1, Math.floor((width + gap) / cellWidth)), left: 0, top, cellWidth, cellHeight: h * scale + gap + top };
}

function drawPlanes(canvas: HTMLCanvasElement, picture: Picture, domain: { low: number; high: number }, theme: Theme, width: number, cursor: Cursor | null) {
  const { planes } = picture;
  const at = layOut(picture, width);
  const context = prepared(canvas, width, Math.ceil(planes.length / at.across) * at.cellHeight);
  context.font = `11px ${css("--font")}`;
  context.textBaseline = "alphabetic";
  planes.forEach((plane, i) => {
    const left = (i % at.across) * at.cellWidth;
    const top = Math.floor(i / at.across) * at.cellHeight + at.top;
    put(context, mapOf(plane, domain, theme), left, top, plane.width * at.scale, plane.height * at.scale);
    if (at.top) {
      context.fillStyle = css("--dim");
      context.fillText(plane.title, left, top - 3);
    }
    if (cursor?.i === i) {
      context.strokeStyle = css("--ink");
      context.strokeRect(left + cursor.column * at.scale, top + cursor.row * at.scale, at.scale, at.scale);
    }
  });
}

function cellAt(picture: Picture, width: number, x: number, y: number): Cursor | null {
  const at = layOut(picture, width);
  const i = Math.floor(y / at.cellHeight) * at.across + Math.floor(x / at.cellWidth);
  const plane = picture.planes[i];
  const row = Math.floor(((y % at.cellHeight) - at.top) / at.scale);
  const column = Math.floor((x % at.cellWidth) / at.scale);
  const outside = !plane || x < 0 || x >= at.across * at.cellWidth || row < 0 || row >= plane.height || column >= plane.width;
  return outside ? null : { i, row, column };
}

function cellWords(picture: Picture, { i, row, column }: Cursor): string {
  const plane = picture.planes[i];
  if (!plane || row >= plane.height || column >= plane.width) return "";
  const which = picture.planes.length > 1 ? `${picture.one} ${plane.title}, ` : "";
  return `${which}${picture.down} ${row}, ${picture.right} ${column}: ${exact(plane.at(row, column))}`;
}

/** One cell or bar further; beyond the edge of a map lies the next one. */
function moved(cursor: Cursor | null, [down, right]: [number, number], picture: Picture | undefined, vector: Float32Array | undefined): Cursor {
  if (!cursor) return { i: 0, row: 0, column: 0 };
  const clamp = (value: number, end: number) => Math.max(0, Math.min(end, value));
  if (!picture) return { ...cursor, i: clamp(cursor.i + right - down, (vector?.length ?? 1) - 1) };
  const { width, height } = picture.planes[0];
  const column = cursor.column + right;
  const i = clamp(cursor.i + (column < 0 ? -1 : column >= width ? 1 : 0), picture.planes.length - 1);
  return { i, row: clamp(cursor.row + down, height - 1), column: i === cursor.i ? clamp(column, width - 1) : right > 0 ? 0 : width - 1 };
}

function drawColour(canvas: HTMLCanvasElement, picture: Picture, domain: { low: number; high: number }, width: number) {
  const { height: h, width: w } = picture.planes[0];
  const scale = Math.max(1, Math.floor(Math.min(width / w, 320 / h)));
  const context = prepared(canvas, Math.min(width, w * scale), h * scale);
  put(context, colourImage(picture.planes, domain), 0, 0, w * scale, h * scale);
}

function barOf(count: number, width: number): number {
  return Math.min(48, (width - LEFT) / count);
}

function drawBars(canvas: HTMLCanvasElement, vector: Float32Array, labels: number[] | undefined, width: number, cursor: Cursor | null) {
  const context = prepared(canvas, width, BARS + 20);
  const known = [...vector].filter(Number.isFinite);
  const high = Math.max(0, ...known);
  const low = Math.min(0, ...known);
  const span = high - low || 1;
  const y = (value: number) => 8 + ((high - value) / span) * (BARS - 16);
  const bar = barOf(vector.length, width);
  context.font = `11px ${css("--font")}`;
  context.textBaseline = "middle";
  context.textAlign = "right";
  for (const value of new Set([low, 0, high])) {
    context.fillStyle = css("--line");
    context.fillRect(LEFT, y(value), bar * vector.length, 1);
    context.fillStyle = css("--dim");
    context.fillText(compact(value), LEFT - 6, y(value));
  }
  for (let i = 0; i < vector.length; i++) {
    const value = vector[i];
    const finite = Number.isFinite(value);
    context.fillStyle = css(finite ? (value < 0 ? "--c1" : "--c2") : "--alarm");
    const [top, bottom] = finite ? [y(Math.max(value, 0)), y(Math.min(value, 0))] : [8, BARS - 8];
    context.fillRect(LEFT + i * bar, top, Math.max(bar - (bar > 4 ? 1 : 0), 0.6), Math.max(bottom - top, 1));
  }
  if (cursor && cursor.i < vector.length) {
    context.strokeStyle = css("--ink");
    context.strokeRect(LEFT + cursor.i * bar, 4, bar, BARS - 8);
  }
  context.fillStyle = css("--dim");
  context.textAlign = "center";
  const every = Math.ceil(24 / bar);
  for (let i = 0; i < vector.length; i += every) {
    context.fillText(String(labels?.[i] ?? i), LEFT + (i + 0.5) * bar, BARS + 8);
  }
}

function barAt(vector: Float32Array, width: number, x: number): Cursor | null {
  const i = Math.floor((x - LEFT) / barOf(vector.length, width));
  return i < 0 || i >= vector.length ? null : { i, row: 0, column: 0 };
}

function barWords(vector: Float32Array, labels: number[] | undefined, { i }: Cursor): string {
  if (i >= vector.length) return "";
  return `${labels ? "sample" : "place"} ${labels?.[i] ?? i}: ${exact(vector[i])}`;
}
