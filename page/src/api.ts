// What the server answers; see src/fitscope/ui/api.py.

export type Kind = "share" | "magnitude" | "signed" | "count";

export interface RunLine {
  name: string;
  status: string;
  problem?: string | null;
  created?: string | null;
  host?: string | null;
  model?: string | null;
  backend?: string | null;
  command?: string[] | null;
  last_step?: number | null;
  versions?: Record<string, string> | null;
  git?: { commit: string; changed: boolean | null } | null;
}

export interface Site {
  name: string;
  path: string;
  port: string;
  class: string;
  shape: (number | null)[];
  dtype: string;
  activation: string | null;
}

export interface Extent {
  first: number;
  last: number;
  observed: number;
  rows: number;
}

export interface GraphLayer {
  path: string;
  class: string;
  parent: string | null;
  parameters: number;
  trainable: boolean;
}

export interface Graph {
  name?: string;
  class?: string;
  parameters?: number;
  layers?: GraphLayer[];
  edges?: [string, string][];
}

export interface RunDetail extends RunLine {
  version: string;
  lost_steps: number;
  config: Record<string, unknown>;
  sites: Site[];
  graph: Graph;
  unseen: { site: string; reason: string; remedy: string }[];
  statistics: { name: string; kind: Kind; about: string }[];
  phases: Record<string, Extent>;
}

export interface State {
  version: string;
  changed: boolean;
  status?: string;
  sites?: number;
  lost_steps?: number;
  phases?: Record<string, Extent>;
  /** Seconds until it may be asked again: the page may run beside the training. */
  rest?: number;
}

export interface Picture {
  statistic: string;
  kind: Kind;
  mode: string;
  first: number;
  last: number;
  columns: number;
  rows: number;
  sites: number[];
  exact: boolean;
  seconds: number;
  values: Float32Array;
}

export interface Cell {
  observed: number;
  first?: number;
  last?: number;
  low?: number | null;
  mean?: number | null;
  high?: number | null;
}

export interface Line {
  step: number[];
  low: (number | null)[];
  mean: (number | null)[];
  high: (number | null)[];
  kind: Kind;
}

export interface Fan {
  quantiles: number[];
  first: number[];
  last: number[];
  values: (number | null)[][];
  zeros: number[];
  nonfinite: number[];
  rows: number[];
  read: number;
}

export interface Finding {
  rule: string;
  severity: "fault" | "warning" | "note";
  site: string;
  first_step: number;
  last_step: number;
  message: string;
  evidence: Record<string, unknown>;
  remedy: string;
  /** Not in runs of earlier versions. */
  why?: string;
  stage?: "contract" | "training";
  consequences?: Finding[];
}

export interface Findings {
  findings: Finding[];
  complete: boolean;
  /** Whether they are of the run as it is; else they are worth asking for again. */
  fresh: boolean;
  /** Seconds until then. */
  wait: number;
  note: string;
}

export type Metrics = Record<string, { step: number[]; value: (number | string | null)[] }>;

export class Problem extends Error {
  constructor(
    message: string,
    readonly status: number,
  ) {
    super(message);
  }
}

type Params = Record<string, string | number | undefined | null>;

async function ask(name: string, params: Params, signal?: AbortSignal): Promise<Response> {
  const query = new URLSearchParams();
  for (const [key, value] of Object.entries(params)) {
    if (value !== undefined && value !== null) query.set(key, String(value));
  }
  let answer: Response;
  try {
    answer = await fetch(`/api/${name}?${query}`, { signal });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Problem("The server of this page is gone. Start it again: fitscope ui", 0);
  }
  if (answer.ok) return answer;
  if (answer.status === 401) {
    throw new Problem("This page needs the link with the token that fitscope printed.", 401);
  }
  const body = await answer.json().catch(() => ({}));
  throw new Problem(body.problem ?? `The server answered ${answer.status}.`, answer.status);
}

export async function getJson<T>(name: string, params: Params = {}, signal?: AbortSignal) {
  return (await (await ask(name, params, signal)).json()) as T;
}

export interface Recorded {
  name: string;
  class: string;
  dtype: string;
  steps: number[];
  phases: string[];
}

export interface Tensor {
  shape: number[];
  whole: number[];
  positions: number[];
  length: number | null;
  step: number;
  epoch: number;
  phase: string;
  has_rows: boolean;
  values: Float32Array;
}

export async function getTensor(params: Params, signal?: AbortSignal): Promise<Tensor> {
  return unpacked(await (await ask("value", params, signal)).arrayBuffer());
}

export interface Units {
  recorded: number;
  steps: number[];
  /** Of each unit the step since which it is off; -1 where it is on in the last one. */
  since: number[];
  rows: number;
  units: number;
  /** By unit and step: the share of its elements that are on. */
  values: Float32Array;
}

export async function getUnits(params: Params, signal?: AbortSignal): Promise<Units> {
  return unpacked(await (await ask("units", params, signal)).arrayBuffer());
}

export async function getPicture(params: Params, signal?: AbortSignal): Promise<Picture> {
  return unpacked(await (await ask("strip", params, signal)).arrayBuffer());
}

function unpacked<T>(body: ArrayBuffer): T {
  const length = new DataView(body).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(body, 4, length)));
  return { ...header, values: new Float32Array(body, 4 + length) };
}
