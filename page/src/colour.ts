// Colour scales. Lightness runs one way, so they read without colour vision and in print; blue and
// orange are told apart by all common kinds of colour blindness.

import type { Kind } from "./api";

type Rgb = [number, number, number];

const SEQUENTIAL: Record<Theme, string[]> = {
  light: ["#eef1f5", "#c3dcea", "#7db8d2", "#3a86b8", "#24519a", "#1c1c5e"],
  dark: ["#20242e", "#263c6b", "#22708e", "#35a37e", "#a9d24a", "#fdf07a"],
};
const DIVERGING: Record<Theme, string[]> = {
  light: ["#0b3c7d", "#3f82c4", "#a9cce6", "#f1f2f4", "#f3c08b", "#d9771f", "#8a3d00"],
  dark: ["#a8d4ff", "#4d9be6", "#25568c", "#20242e", "#8a5213", "#e0892b", "#ffd9a1"],
};
const NOTHING_FINITE: Record<Theme, Rgb> = { light: [200, 0, 110], dark: [255, 90, 175] };

export type Theme = "light" | "dark";
export const STEPS = 256;

export interface Scale {
  diverging: boolean;
  /** 0 to 1; 0.5 is the middle of a diverging scale. */
  place: (value: number) => number;
  /** Values for the legend, from its left to its right end. */
  ticks: { at: number; value: number }[];
  /** Whether the values are log2 ratios to the layer's own beginning. */
  relative?: boolean;
}

export interface Domain {
  low: number;
  high: number;
  /** The smallest magnitude above zero. */
  least: number;
  /** A typical magnitude. */
  typical: number;
}

export function palette(theme: Theme, diverging: boolean): Uint8ClampedArray {
  const stops = (diverging ? DIVERGING : SEQUENTIAL)[theme].map(parse);
  const colours = new Uint8ClampedArray(STEPS * 4);
  for (let i = 0; i < STEPS; i++) {
    const at = (i / (STEPS - 1)) * (stops.length - 1);
    const below = Math.min(Math.floor(at), stops.length - 2);
    const share = at - below;
    for (let c = 0; c < 3; c++) {
      colours[i * 4 + c] = stops[below][c] * (1 - share) + stops[below + 1][c] * share;
    }
    colours[i * 4 + 3] = 255;
  }
  return colours;
}

export function alarm(theme: Theme): Rgb {
  return NOTHING_FINITE[theme];
}

export function domainOf(values: Float32Array): Domain {
  let low = Infinity;
  let high = -Infinity;
  let least = Infinity;
  const sample: number[] = [];
  const stride = Math.max(1, Math.floor(values.length / 4096));
  for (let i = 0; i < values.length; i++) {
    const value = values[i];
    if (!Number.isFinite(value)) continue;
    if (value < low) low = value;
    if (value > high) high = value;
    const size = Math.abs(value);
    if (size > 0 && size < least) least = size;
    if (i % stride === 0 && size > 0) sample.push(size);
  }
  sample.sort((a, b) => a - b);
  return { low, high, least, typical: sample[sample.length >> 1] ?? 1 };
}

export function widened(a: Domain | undefined, b: Domain): Domain {
  if (!a || !Number.isFinite(a.low)) return b;
  if (!Number.isFinite(b.low)) return a;
  return {
    low: Math.min(a.low, b.low),
    high: Math.max(a.high, b.high),
    least: Math.min(a.least, b.least),
    typical: a.typical,
  };
}

export function scaleOf(kind: Kind, domain: Domain, relative: boolean): Scale {
  if (relative) return relativeScale(kind);
  if (kind === "share") {
    const ticks = [0, 0.25, 0.5, 0.75, 1].map((value) => ({ at: value, value }));
    return { diverging: false, place: (value) => value, ticks };
  }
  if (!Number.isFinite(domain.low)) return { diverging: false, place: () => 0, ticks: [] };
  return kind === "signed" ? signedScale(domain) : sizeScale(kind, domain);
}

function relativeScale(kind: Kind): Scale {
  const ends = kind === "share" ? 1 : 4;
  const place = (value: number) => (value / ends + 1) / 2;
  const ticks = [-ends, -ends / 2, 0, ends / 2, ends].map((value) => ({ at: place(value), value }));
  return { diverging: true, place, ticks, relative: true };
}

function signedScale(domain: Domain): Scale {
  const most = Math.max(Math.abs(domain.low), Math.abs(domain.high)) || 1;
  const bend = Math.max(Math.min(domain.typical, most), most / 1e6);
  const end = Math.asinh(most / bend);
  const place = (value: number) => (Math.asinh(value / bend) / end + 1) / 2;
  const ticks = [0, 0.25, 0.5, 0.75, 1].map((at) => ({
    at,
    value: Math.sinh((at * 2 - 1) * end) * bend,
  }));
  return { diverging: true, place, ticks };
}

function sizeScale(kind: Kind, domain: Domain): Scale {
  if (kind === "count") {
    const end = Math.log1p(Math.max(domain.high, 1));
    const ticks = [0, 0.5, 1].map((at) => ({ at, value: Math.round(Math.expm1(at * end)) }));
    return { diverging: false, place: (value) => Math.log1p(Math.max(value, 0)) / end, ticks };
  }
  const high = Math.log10(Math.max(domain.high, 1e-45));
  // At most twelve decades: what is smaller is as good as gone.
  const low = Math.max(Math.log10(Math.min(domain.least, domain.high) || 1e-45), high - 12);
  const span = Math.max(high - low, 0.2);
  const place = (value: number) => (value > 0 ? (Math.log10(value) - low) / span : 0);
  const ticks = [0, 0.5, 1].map((at) => ({ at, value: 10 ** (low + at * span) }));
  return { diverging: false, place, ticks };
}

function parse(text: string): Rgb {
  return [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16)) as Rgb;
}
