// Maps of numbers as pixels: one for each number, in the page's colours.

import { palette, STEPS, type Domain, type Theme } from "./colour";
import { css } from "./paint";
import type { Plane } from "./planes";

export type Ends = Pick<Domain, "low" | "high">;

/** One colour for each number; what is not finite stays transparent. */
export function mapOf(plane: Plane, { low, high }: Ends, theme: Theme): OffscreenCanvas {
  const { width, height } = plane;
  const image = new ImageData(width, height);
  const signed = low < 0;
  const end = Math.max(Math.abs(low), Math.abs(high)) || 1;
  const span = high - low || 1;
  const colours = palette(theme, signed);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const value = plane.at(y, x);
      if (!Number.isFinite(value)) continue;
      const place = signed ? (value / end + 1) / 2 : (value - low) / span;
      const colour = Math.max(0, Math.min(STEPS - 1, Math.round(place * (STEPS - 1)))) * 4;
      image.data.set(colours.subarray(colour, colour + 4), (y * width + x) * 4);
    }
  }
  return surfaceOf(image);
}

/** Three maps as red, green and blue. */
export function colourImage(planes: Plane[], { low, high }: Ends): OffscreenCanvas {
  const { width, height } = planes[0];
  const image = new ImageData(width, height);
  const span = high - low || 1;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const at = (y * width + x) * 4;
      for (let c = 0; c < 3; c++) image.data[at + c] = ((planes[c].at(y, x) - low) / span) * 255;
      image.data[at + 3] = 255;
    }
  }
  return surfaceOf(image);
}

/** Draws a map into a rectangle; what is not finite shows in the colour of an alarm. */
export function put(
  context: CanvasRenderingContext2D,
  surface: OffscreenCanvas,
  left: number,
  top: number,
  width: number,
  height: number,
) {
  context.imageSmoothingEnabled = false;
  context.fillStyle = css("--alarm");
  context.fillRect(left, top, width, height);
  context.drawImage(surface, left, top, width, height);
}

function surfaceOf(image: ImageData): OffscreenCanvas {
  const surface = new OffscreenCanvas(image.width, image.height);
  surface.getContext("2d")!.putImageData(image, 0, 0);
  return surface;
}
