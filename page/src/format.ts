// Numbers as text, as in the terminal (src/fitscope/terminal/numbers.py).

import type { Kind } from "./api";

const WORDS: Record<string, number> = { Infinity: Infinity, "-Infinity": -Infinity };

export function number(value: unknown): number {
  if (typeof value === "number") return value;
  return typeof value === "string" && value in WORDS ? WORDS[value] : NaN;
}

export function compact(value: number | null | undefined): string {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 999.5 && size < 99999.5) return minus(value.toFixed(0));
  if (size >= 1e-3 && size < 999.5) return minus(trimmed(value.toPrecision(3)));
  const [digits, exponent] = value.toExponential(2).split("e");
  return minus(`${trimmed(digits)}e${Number(exponent)}`);
}

export function percent(share: number | null | undefined): string {
  if (share === null || share === undefined || Number.isNaN(share)) return "–";
  if (share <= 0) return "0%";
  if (share >= 1) return "100%";
  if (share < 0.001) return "<0.1%";
  if (share > 0.999) return ">99.9%";
  if (share < 0.0995 || share > 0.985) return `${trimmed(Math.min(share * 100, 99.9).toFixed(1))}%`;
  return `${(share * 100).toFixed(0)}%`;
}

export function shown(value: number | null | undefined, kind: Kind): string {
  return kind === "share" ? percent(value) : compact(value);
}

/** As many digits as a float64 needs to be read back, up to ten. */
export function exact(value: number | null | undefined): string {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  return minus(String(Number(value.toPrecision(8))));
}

export function whole(value: number): string {
  return value.toLocaleString("en-US");
}

export function shape(sizes: (number | null)[]): string {
  return sizes.map((size) => size ?? "?").join("×") || "scalar";
}

export function when(iso: string | null | undefined): string {
  if (!iso) return "–";
  const date = new Date(iso);
  return Number.isNaN(date.getTime())
    ? iso
    : date.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}

function trimmed(digits: string): string {
  return digits.includes(".") ? digits.replace(/0+$/, "").replace(/\.$/, "") : digits;
}

function minus(text: string): string {
  return text.replace("-", "−");
}
