// Builds the page into the Python package: one script, one style sheet, index.html, licences.
import { build } from "esbuild";
import { cp, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const out = process.argv[2] ?? join(here, "../src/fitscope/ui/static");

await rm(out, { recursive: true, force: true });
await mkdir(out, { recursive: true });
await build({
  absWorkingDir: here,
  entryPoints: { page: "src/main.tsx" },
  outdir: out,
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  jsx: "automatic",
  jsxImportSource: "preact",
  legalComments: "none",
  logLevel: "warning",
});
const manifest = JSON.parse(await readFile(join(here, "package.json"), "utf8"));
const licences = [];
for (const name of Object.keys(manifest.dependencies)) {
  const text = await readFile(join(here, "node_modules", name, "LICENSE"), "utf8");
  licences.push(`${name} ${manifest.dependencies[name]}\n\n${text.trim()}\n`);
}
await writeFile(join(out, "licenses.txt"), licences.join(`\n${"-".repeat(80)}\n\n`));
await cp(join(here, "index.html"), join(out, "index.html"));
