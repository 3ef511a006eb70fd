// How the axes of one recorded tensor become maps: images by channel, attention by head, sequences.

import type { Recorded, Tensor } from "./api";

/** A map of numbers. */
export interface Plane {
  height: number;
  width: number;
  at: (y: number, x: number) => number;
  title: string;
}

export interface Picture {
  planes: Plane[];
  /** Maps that are left out. */
  hidden: number;
  /** What goes down and what goes to the right, in words. */
  down: string;
  right: string;
  /** What one map is of: "channel", "head". */
  one: string;
}

/** Where the maps lie: along the last axis, or along the first one. */
export type Axes = "last" | "first";

const MOST_PLANES = 256;

export function tailOf(tensor: Tensor): number[] {
  return tensor.has_rows ? tensor.shape.slice(1) : tensor.shape;
}

function start(tensor: Tensor, sample: number): number {
  return tensor.has_rows ? sample * tailOf(tensor).reduce((a, b) => a * b, 1) : 0;
}

/** Attention scores are heads x queries x keys; images are height x width x channels. */
export function axesOf(recorded: Pick<Recorded, "name" | "class">, tail: number[]): Axes {
  if (tail.length < 3) return "last";
  const [a, b, c] = tail.slice(-3);
  if (/attention|softmax/i.test(recorded.class) || /(scores|attention|attn|weights)(\W|$)/i.test(recorded.name)) return "first";
  if (/conv|pool|batchnorm|upsampl|padding|cropping/i.test(recorded.class) || recorded.name.startsWith("@batch/")) return "last";
  return b === c && a !== b ? "first" : "last";
}

export function pictureOf(tensor: Tensor, sample: number, axes: Axes): Picture | undefined {
  const tail = tailOf(tensor);
  const { values } = tensor;
  const from = start(tensor, sample);
  if (tail.length < 2) return undefined;
  if (tail.length === 2) {
    // Time goes to the right, as in every other picture of the page.
    const [width, height] = tail;
    const plane = { height, width, at: (y: number, x: number) => values[from + x * height + y], title: "" };
    return { planes: [plane], hidden: 0, down: "feature", right: "position", one: "map" };
  }
  // What stands before the last three axes (frames of a video) is told apart by its number.
  const [a, b, c] = tail.slice(-3);
  const before = tail.slice(0, -3).reduce((x, y) => x * y, 1);
  const each = axes === "first" ? a : c;
  const one = axes === "first" ? "head" : "channel";
  const count = Math.min(before * each, MOST_PLANES);
  const planes = Array.from({ length: count }, (_, i) => {
    const base = from + Math.floor(i / each) * a * b * c;
    const k = i % each;
    const title = before > 1 ? `${Math.floor(i / each)}.${k}` : `${k}`;
    return axes === "first"
      ? { height: b, width: c, at: (y: number, x: number) => values[base + (k * b + y) * c + x], title }
      : { height: a, width: b, at: (y: number, x: number) => values[base + (y * b + x) * c + k], title };
  });
  const [down, right] = axes === "first" ? ["query", "key"] : ["row", "column"];
  return { planes, hidden: before * each - count, down, right, one };
}

export function vectorOf(tensor: Tensor, sample: number): Float32Array | undefined {
  const tail = tailOf(tensor);
  if (tail.length === 1) return tensor.values.subarray(start(tensor, sample)).subarray(0, tail[0]);
  return tail.length === 0 ? tensor.values : undefined;
}

/** A colour image of the batch: three channels between the ends of what was recorded. */
export function isColourImage(name: string, tensor: Tensor): boolean {
  const tail = tailOf(tensor);
  return name.startsWith("@batch/") && tail.length === 3 && tail[2] === 3 && tail[0] > 3 && tail[1] > 3;
}
