// The state of the page is its address: every view can be linked to, and Back works.

import { useEffect, useState } from "preact/hooks";

export const TABS = ["strip", "layer", "findings", "model", "values", "runs"] as const;
export type Tab = (typeof TABS)[number];

export interface View {
  tab: Tab;
  run?: string;
  other?: string;
  stat?: string;
  phase?: string;
  mode?: string;
  scale?: string;
  port?: string;
  site?: string;
  find?: string;
  only?: string;
  first?: number;
  last?: number;
  open?: string;
  tensor?: string;
  axes?: string;
  step?: number;
  sample?: number;
}

const NUMBERS = new Set(["first", "last", "step", "sample"]);

export function readView(hash: string): View {
  const [path, query] = hash.replace(/^#\/?/, "").split("?", 2);
  const tab = (TABS as readonly string[]).includes(path) ? (path as Tab) : "strip";
  const view: Record<string, unknown> = { tab };
  for (const [key, value] of new URLSearchParams(query ?? "")) {
    if (!NUMBERS.has(key)) view[key] = value;
    else if (/^\d+$/.test(value)) view[key] = Number(value);
  }
  return view as unknown as View;
}

export function hashOf(view: View): string {
  const query = new URLSearchParams();
  for (const [key, value] of Object.entries(view)) {
    if (key !== "tab" && value !== undefined && value !== "") query.set(key, String(value));
  }
  const text = query.toString();
  return `#/${view.tab}${text ? `?${text}` : ""}`;
}

export type Go = (patch: Partial<View>, replace?: boolean) => void;

export function useView(): [View, Go] {
  const [view, setView] = useState(() => readView(location.hash));
  useEffect(() => {
    const read = () => setView(readView(location.hash));
    addEventListener("hashchange", read);
    return () => removeEventListener("hashchange", read);
  }, []);
  const go: Go = (patch, replace = false) => {
    const next = { ...readView(location.hash), ...patch };
    if (replace) history.replaceState(null, "", hashOf(next));
    else history.pushState(null, "", hashOf(next));
    setView(next);
  };
  return [view, go];
}
