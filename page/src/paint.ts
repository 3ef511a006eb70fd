// A picture of numbers as pixels, one per cell.

import type { Kind, Picture } from "./api";
import { alarm, palette, STEPS, type Scale, type Theme } from "./colour";

/** Each layer against its own beginning: the median of the first known tenth of its cells. */
export function relativeTo(picture: Picture, baselines: Float64Array): Float32Array {
  const { values, rows, columns, kind } = picture;
  const result = new Float32Array(values.length);
  for (let row = 0; row < rows; row++) {
    const base = baselines[picture.sites[row]];
    for (let i = row * columns; i < (row + 1) * columns; i++) {
      result[i] =
        kind === "share" ? values[i] - base : Math.log2(Math.max(values[i], 1e-45) / Math.max(base, 1e-45));
    }
  }
  return result;
}

export function baselinesOf(picture: Picture, sites: number): Float64Array {
  const baselines = new Float64Array(sites).fill(NaN);
  const { values, rows, columns } = picture;
  for (let row = 0; row < rows; row++) {
    const known: number[] = [];
    for (let i = row * columns; i < (row + 1) * columns; i++) {
      if (Number.isFinite(values[i])) known.push(values[i]);
    }
    const first = known.slice(0, Math.max(1, Math.ceil(known.length / 10))).sort((a, b) => a - b);
    baselines[picture.sites[row]] = first[first.length >> 1] ?? NaN;
  }
  return baselines;
}

/** `values` may be those of the picture, or what was made of them. */
export function paint(
  values: Float32Array,
  columns: number,
  rows: (number | undefined)[],
  kind: Kind,
  scale: Scale,
  theme: Theme,
): ImageData {
  const image = new ImageData(columns, Math.max(1, rows.length));
  const pixels = image.data;
  const colours = palette(theme, scale.diverging);
  const [red, green, blue] = alarm(theme);
  const overFinite = kind === "magnitude" || kind === "signed";
  for (let y = 0; y < rows.length; y++) {
    const row = rows[y];
    if (row === undefined) continue;
    for (let x = 0; x < columns; x++) {
      const value = values[row * columns + x];
      const at = (y * columns + x) * 4;
      if (Number.isNaN(value)) continue; // nothing observed: the background
      if (!Number.isFinite(value)) {
        // Observed, but of no finite element; a share of nothing stays empty.
        if (!overFinite) continue;
        pixels[at] = red;
        pixels[at + 1] = green;
        pixels[at + 2] = blue;
        pixels[at + 3] = 255;
        continue;
      }
      const place = scale.place(value);
      const colour = Math.max(0, Math.min(STEPS - 1, Math.round(place * (STEPS - 1)))) * 4;
      pixels[at] = colours[colour];
      pixels[at + 1] = colours[colour + 1];
      pixels[at + 2] = colours[colour + 2];
      pixels[at + 3] = 255;
    }
  }
  return image;
}

/** Round step numbers for an axis. */
export function ticks(first: number, last: number, most: number): number[] {
  const span = Math.max(1, last - first);
  const rough = span / Math.max(1, most);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = Math.max(1, [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough) ?? rough);
  const found: number[] = [];
  for (let at = Math.ceil(first / step) * step; at <= last; at += step) found.push(at);
  return found;
}

/** Redraws when the size of an element, or of a pixel, changes. */
export function onResize(element: Element, draw: () => void): () => void {
  const observer = new ResizeObserver(() => draw());
  observer.observe(element);
  return () => observer.disconnect();
}

/** Fits a canvas to its place and the screen's pixels; its context draws in CSS pixels. */
export function prepared(canvas: HTMLCanvasElement, width: number, height: number) {
  const ratio = window.devicePixelRatio || 1;
  const wide = Math.max(1, Math.round(width * ratio));
  const high = Math.max(1, Math.round(height * ratio));
  if (canvas.width !== wide || canvas.height !== high) {
    canvas.width = wide;
    canvas.height = high;
  }
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d")!;
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

export function css(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}
