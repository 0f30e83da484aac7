/** The parts of README.md that are made from the code. `deno task diagram` writes them, with `--check` it compares. */
import { diagram } from "../../lib/machine.ts";

const BLOCK = /(<!-- diagram: deno task diagram -->)[\s\S]*?(<!-- end -->)/;

/** README's text with the generated parts as they should be. */
export function withDiagram(readme: string): string {
  if (!BLOCK.test(readme)) throw new Error("Cannot find the diagram's place in README.md");
  return readme.replace(BLOCK, `$1\n\n\`\`\`mermaid\n${diagram()}\n\`\`\`\n\n$2`);
}

if (import.meta.main) {
  const path = new URL("../../README.md", import.meta.url);
  const readme = Deno.readTextFileSync(path);
  const wanted = withDiagram(readme);
  if (readme === wanted) Deno.exit(0);
  if (Deno.args.includes("--check")) {
    console.error("README.md does not show the machine as it is: run `deno task diagram`");
    Deno.exit(1);
  }
  Deno.writeTextFileSync(path, wanted);
}
