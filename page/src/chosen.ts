// What the strip chart shows until the user chooses: the statistic, the tensors, the layers.

import type { Findings, RunDetail } from "./api";
import { allOf, siteOf } from "./findings";
import type { View } from "./view";

const BY_RULE: Record<string, string> = {
  dead_units: "dead_fraction",
  saturation: "saturated_fraction",
  non_finite: "nonfinite_fraction",
  constant_output: "std",
};
export const USUAL = ["rms", "mean", "std", "absmax", "dead_fraction", "zero_fraction", "saturated_fraction", "nonfinite_fraction"];

/** The statistic that shows the gravest finding, until the user chooses one. */
export function defaultStatistic(findings: Findings | undefined): string {
  const first = allOf(findings).find((finding) => finding.rule in BY_RULE || finding.stage !== "contract");
  return BY_RULE[first?.rule ?? ""] ?? "rms";
}

export function portsOf(detail: RunDetail): string[] {
  return [...new Set(detail.sites.map((site) => site.port))];
}

/** The tensors that show the gravest finding, until the user chooses. */
export function portOf(detail: RunDetail, view: View, findings: Findings | undefined): string {
  if (view.port) return view.port;
  const ports = portsOf(detail);
  const first = allOf(findings).find((finding) => siteOf(detail, finding) !== undefined);
  const site = first && siteOf(detail, first);
  const own = detail.sites.find((each) => each.name === site)?.port;
  return own ?? (ports.includes("output") ? "output" : ports[0]);
}

export function orderOf(detail: RunDetail, view: View, findings?: Findings): number[] {
  const port = portOf(detail, view, findings);
  const flagged = new Set(allOf(findings).map((finding) => siteOf(detail, finding)));
  const matches = matcher(view.find);
  return detail.sites.flatMap((site, index) =>
    (port === "all" || site.port === port) &&
    matches(site.name) &&
    (view.only !== "findings" || flagged.has(site.name))
      ? [index]
      : [],
  );
}

/** A glob as in the terminal; without a star, any part of the name. */
export function matcher(find: string | undefined): (name: string) => boolean {
  if (!find) return () => true;
  if (!/[*?]/.test(find)) return (name) => name.toLowerCase().includes(find.toLowerCase());
  const text = find.replace(/[.+^${}()|[\]\\]/g, "\\$&").replaceAll("**", "\0");
  const glob = new RegExp(`^${text.replaceAll("*", "[^/]*").replaceAll("?", ".").replaceAll("\0", ".*")}$`);
  return (name) => glob.test(name);
}
