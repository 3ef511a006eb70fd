// The loss above the strip chart.

import { useMemo } from "preact/hooks";
import { getJson, type Metrics } from "./api";
import { Chart, type Curve } from "./chart";
import { number } from "./format";
import { useAnswer } from "./live";
import { css } from "./paint";
import type { PanelProps } from "./strip";

export function Loss(props: PanelProps & { window: [number, number] }) {
  const { answer } = useAnswer<{ series: Metrics }>(
    (signal) => getJson("metrics", { run: props.detail.name }, signal),
    [props.detail.name, props.version],
  );
  const curves = useMemo(() => {
    const series = answer?.series ?? {};
    return lossNames(series).map((name): Curve => {
      const points = series[name];
      const dashed = name.startsWith("val_");
      return { label: name === "val_loss" ? "validation loss" : name, step: points.step, value: points.value.map(number), dashed };
    });
  }, [answer]);
  const broken = useMemo(() => {
    const series = answer?.series ?? {};
    const steps = lossNames(series).flatMap((name) => {
      const at = series[name].value.findIndex((value) => !Number.isFinite(number(value)));
      return at < 0 ? [] : [series[name].step[at]];
    });
    return steps.length ? Math.min(...steps) : undefined;
  }, [answer]);
  const marks = useMemo(
    () => (broken === undefined ? [] : [{ step: broken, colour: css("--fault") }]),
    [broken, props.theme],
  );
  if (!answer) return <div class="loss-wait" />; // so that the chart below does not jump
  if (!curves.length) return null;
  const all = curves.flatMap((each) => each.value);
  const values = all.filter((v): v is number => v !== null && v > 0);
  const log = values.length > 1 && values.length === all.filter((v) => v !== null && Number.isFinite(v)).length && Math.max(...values) / Math.min(...values) > 50;
  return (
    <div class="loss" style={{ "--gutter": `${props.gutter}px` }}>
      <Chart
        curves={curves}
        window={props.window}
        height={96}
        theme={props.theme}
        left={props.gutter}
        log={log}
        marks={marks}
        bare
        label="Loss over steps, as Keras reported it"
        onWindow={(next) => props.go({ first: next?.[0], last: next?.[1] }, true)}
      />
      {broken !== undefined && <p class="why fault">■ The loss is not finite from step {broken} on.</p>}
    </div>
  );
}

/** The loss and its validation; of a training with other ones (a GAN), all that say they are a loss. */
function lossNames(series: Metrics): string[] {
  const known = Object.keys(series);
  if (known.includes("loss")) return ["loss", "val_loss"].filter((name) => known.includes(name));
  return known.filter((name) => /loss/i.test(name)).slice(0, 6);
}
