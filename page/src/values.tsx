// Recorded raw values. The run does not hold any yet: this view says so and how to record some.

import type { RunDetail } from "./api";

export function ValuesView(props: { detail: RunDetail }) {
  return (
    <div class="empty">
      <p>
        The run “{props.detail.name}” holds no recorded values: a scope keeps statistics and histograms of every step it
        observes, not the tensors themselves.
      </p>
      <p>
        To get real tensors out of the steps of <code>fit</code>, use <code>fs.stream(select, function)</code>.
      </p>
    </div>
  );
}
