// The other tensors of a layer: its gradient beside its output, its weights, and how far a step moves them.

import { getJson, type Line, type RunDetail, type Site } from "./api";
import { Chart, type Curve } from "./chart";
import type { Theme } from "./colour";
import { number } from "./format";
import { useAnswer } from "./live";
import type { Go } from "./view";

const MOST = 8; // curves in one chart
const PASSING = ["input", "preactivation", "before_edit", "output", "gradient"];

interface Props {
  detail: RunDetail;
  site: Site;
  phase: string;
  window: [number, number];
  version: string;
  theme: Theme;
  go: Go;
  marks: { step: number; colour: string }[];
  onWindow: (next: [number, number] | null) => void;
}

export function Beside(props: Props) {
  const { detail, site } = props;
  const own = detail.sites.filter((each) => each.path === site.path);
  const passing = own.filter((each) => PASSING.includes(each.port));
  const others = passing.length > 1 ? [site, ...passing.filter((each) => each.name !== site.name)] : [];
  const weights = own.filter((each) => each.port === "weight" || each.port === "weight_gradient");
  const updates = own.filter((each) => each.port === "update");
  const ratios = detail.statistics.some((each) => each.name === "update_ratio") ? updates : [];
  const gradient = passing.some((each) => each.port === "gradient");
  const layer = detail.graph.layers?.find((each) => each.path === site.path);
  const missing = [
    ...(gradient ? [] : ["gradient"]),
    ...(weights.length || !layer?.parameters ? [] : ["weight"]),
    ...(updates.length || !layer?.parameters || !layer.trainable ? [] : ["update"]),
  ];
  return (
    <>
      <Curves {...props} sites={others.filter((each) => PASSING.includes(each.port))} statistic="rms" title={gradient ? "Gradient beside output" : "Input and output"} what="rms" links />
      <Curves {...props} sites={weights} statistic="l2" title="Weights" what="l2 norm" links />
      <Curves
        {...props}
        sites={ratios}
        statistic="update_ratio"
        title="Update ratio"
        what="how far a step moves a weight, beside its size; about 0.001 in a healthy training"
      />
      {missing.length > 0 && (
        <section class="card">
          <h3>Not watched here</h3>
          <p class="dim">
            To see {missing.join(", ")} of this layer, too:{" "}
            <code>
              fs.watch("**", of=[{["output", ...missing].map((port) => `"${port}"`).join(", ")}])
            </code>
          </p>
        </section>
      )}
    </>
  );
}

function Curves(props: Props & { sites: Site[]; statistic: string; title: string; what: string; links?: boolean }) {
  const { detail, phase, window: range, statistic, title } = props;
  const sites = props.sites.slice(0, MOST);
  const names = sites.map((each) => each.name).join("\n");
  const { answer, problem } = useAnswer<Curve[]>(
    sites.length && detail.phases[phase]
      ? (signal) =>
          Promise.all(
            sites.map(async (each) => {
              const asked = { run: detail.name, phase, first: range[0], last: range[1], columns: 600 };
              const found = await getJson<{ series: Record<string, Line> }>("series", { ...asked, site: each.name, statistic }, signal);
              return curve(each.name.slice(each.path.length).replace(/^:/, "") || "output", found.series[statistic]);
            }),
          )
      : null,
    [detail.name, phase, range[0], range[1], names, statistic, props.version],
    names,
  );
  if (!sites.length) return null;
  const values = (answer ?? []).flatMap((each) => each.value).filter((v): v is number => v !== null && v > 0);
  const wide = values.length > 1 && Math.max(...values) / Math.min(...values) > 30;
  return (
    <section class="card">
      <h3>{title}</h3>
      <p class="dim">{props.what}</p>
      {problem && <p class="problem">{problem}</p>}
      {answer && (
        <Chart curves={answer} window={range} height={210} theme={props.theme} log={wide} marks={props.marks} label={`${title} of ${props.site.path}`} onWindow={props.onWindow} />
      )}
      {props.links && (
        <p>
          {sites
            .filter((each) => each.name !== props.site.name)
            .map((each) => (
              <>
                <button type="button" class="link" onClick={() => props.go({ site: each.name })}>
                  {each.name}
                </button>{" "}
              </>
            ))}
        </p>
      )}
    </section>
  );
}

export function curve(label: string, line: Line): Curve {
  const [value, low, high] = [line.mean, line.low, line.high].map((values) => values.map(orNull));
  const spread = low.some((each, i) => each !== high[i]);
  return { label, step: line.step, value, ...(spread ? { low, high } : {}) };
}

function orNull(value: unknown): number | null {
  const found = number(value);
  return Number.isNaN(found) ? null : found;
}
