// The keys, in a dialog.

import { useEffect, useRef } from "preact/hooks";

const KEYS: [string, string][] = [
  ["s l f m v r", "strip chart, layer, findings, model, values, runs"],
  ["j k", "next and previous layer"],
  ["arrows", "in the strip chart: move the cursor; with Shift ten at a time"],
  ["+ − 0", "in the strip chart: zoom in, zoom out, all steps"],
  ["PageUp PageDown", "in the strip chart: earlier, later"],
  ["Enter", "in the strip chart: open the layer under the cursor"],
  ["wheel, drag", "zoom and pan; double-click shows all steps; drag in a line chart zooms. Where the picture is taller than the window the wheel scrolls, and zooms with Ctrl"],
  [", . [ ]", "in the values: earlier and later step, previous and next sample"],
  ["arrows", "on a picture of values: the number in each place"],
  ["?", "this help"],
];

export function Help({ close }: { close: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    dialog.current?.showModal();
  }, []);
  return (
    <dialog ref={dialog} onClose={close} aria-labelledby="help-title">
      <h2 id="help-title">Keys</h2>
      <dl class="keys">
        {KEYS.map(([keys, what]) => (
          <div>
            <dt>
              <kbd>{keys}</kbd>
            </dt>
            <dd>{what}</dd>
          </div>
        ))}
      </dl>
      <p>
        The address holds what you see: copy it to come back. ■ fault, ▲ warning, ● note; the frame around a row
        begins where it began.
      </p>
      <button type="button" onClick={() => dialog.current?.close()}>
        Close
      </button>
    </dialog>
  );
}
