// The model's graph with nested blocks folded, laid out.

import dagre from "@dagrejs/dagre";
import type { Graph, GraphLayer } from "./api";

export interface Node {
  path: string;
  label: string;
  class: string;
  inside: number; // layers of a folded block
  x: number;
  y: number;
  width: number;
  height: number;
}

export interface Layout {
  nodes: Node[];
  edges: { from: string; to: string; points: { x: number; y: number }[] }[];
  width: number;
  height: number;
  hidden: number;
}

const HEIGHT = 40;
export const MOST = 400;

/** Layers that hold others, and can be folded. */
export function containers(layers: GraphLayer[]): Map<string, string[]> {
  const inside = new Map<string, string[]>();
  for (const layer of layers) {
    if (layer.parent !== null) inside.set(layer.parent, [...(inside.get(layer.parent) ?? []), layer.path]);
  }
  return inside;
}

export function layOut(graph: Graph, unfolded: ReadonlySet<string>): Layout {
  const layers = graph.layers ?? [];
  const inside = containers(layers);
  const byPath = new Map(layers.map((layer) => [layer.path, layer]));
  // The root model itself is the whole picture.
  const isRoot = (layer: GraphLayer) => layer.parent === null && (layer.path === "" || layer.path === graph.name);
  const open = (path: string) => unfolded.has(path);
  const shownAs = new Map<string, string>();
  for (const layer of layers) {
    if (isRoot(layer)) continue;
    const chain: GraphLayer[] = [];
    for (let at: GraphLayer | undefined = layer; at && !isRoot(at); at = at.parent === null ? undefined : byPath.get(at.parent)) {
      chain.unshift(at);
    }
    const shown = chain.find((each) => !(inside.has(each.path) && open(each.path))) ?? layer;
    shownAs.set(layer.path, shown.path);
  }
  const all = [...new Set(shownAs.values())].filter((path) => !(inside.has(path) && open(path)));
  const visible = all.slice(0, MOST);
  const kept = new Set(visible);
  const laid = new dagre.graphlib.Graph();
  laid.setGraph({ rankdir: "TB", nodesep: 18, ranksep: 26, marginx: 8, marginy: 8 });
  laid.setDefaultEdgeLabel(() => ({}));
  for (const path of visible) {
    const layer = byPath.get(path)!;
    const label = path.split("/").pop()!;
    const width = Math.max(110, Math.min(240, 26 + 7.2 * Math.max(label.length, layer.class.length)));
    laid.setNode(path, { width, height: HEIGHT });
  }
  const edges = new Map<string, [string, string]>();
  for (const [from, to] of graph.edges ?? []) {
    const ends = [shownAs.get(from) ?? from, shownAs.get(to) ?? to] as [string, string];
    if (ends[0] !== ends[1] && kept.has(ends[0]) && kept.has(ends[1])) edges.set(ends.join("\n"), ends);
  }
  for (const [from, to] of edges.values()) laid.setEdge(from, to);
  dagre.layout(laid);
  const size = laid.graph();
  return {
    nodes: visible.map((path) => {
      const { x, y, width, height } = laid.node(path);
      const layer = byPath.get(path)!;
      return { path, label: path.split("/").pop()!, class: layer.class, inside: count(inside, path), x, y, width, height };
    }),
    edges: [...edges.values()].map(([from, to]) => ({ from, to, points: laid.edge(from, to).points })),
    width: size.width ?? 0,
    height: size.height ?? 0,
    hidden: all.length - visible.length,
  };
}

function count(inside: Map<string, string[]>, path: string): number {
  return (inside.get(path) ?? []).reduce((sum, each) => sum + 1 + count(inside, each), 0);
}
