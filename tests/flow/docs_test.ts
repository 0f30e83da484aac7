/** README.md and docs/: links lead somewhere, commands and flags are there, and what can be run has been run. */
import assert from "node:assert/strict";
import { dirname, join, normalize } from "node:path";
import { type Commands, readCommands } from "../support/commands.ts";
import { fromFileUrl } from "../support/paths.ts";

const strict = { sanitizeOps: true, sanitizeResources: true };
const root = fromFileUrl("../..");

const pages = new Map(
  ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", ...folder("docs").filter((path) => path.endsWith(".md"))]
    .map((path) => [path, Deno.readTextFileSync(`${root}/${path}`)]),
);

function folder(path: string): string[] {
  return [...Deno.readDirSync(`${root}/${path}`)].map(({ name }) => `${path}/${name}`).sort();
}

/** The blocks that a test runs, by page and heading (or all of a page), and the test. */
const RUN_BY_TEST: Record<string, string> = {
  "README.md#A first minute": "tests/flow/readme_test.ts",
  "docs/use-cases.md": "tests/flow/use_cases_test.ts",
  "docs/rights.md#etcd": "tests/fault/etcd_auth_test.ts",
  "docs/rights.md#One-way": "tests/fault/etcd_auth_test.ts",
  "docs/rights.md#PostgreSQL": "tests/fault/etcd_auth_test.ts",
  "docs/sql.md#Rights": "tests/sql/rights_test.ts",
  "docs/disasters.md#etcd is restored from a snapshot": "tests/fault/restore_test.ts",
};

/** `tests/flow/alerts_test.ts` runs the SQL of this page. */
const SQL_RUN_BY_TEST = ["docs/operations.md"];

/** The blocks that were run by hand. A new one is to be run once, and named here. */
const RUN_BY_HAND = new Set([
  "README.md#etcd-pg-sync",
  "README.md#How it is run for real",
  "docs/configuration.md#Completion",
  "docs/disasters.md#Backup, restore, disasters",
  "docs/disasters.md#Backup",
  "docs/disasters.md#PostgreSQL is restored from a backup",
  "docs/disasters.md#PostgreSQL is lost, without a backup",
  "docs/install.md#Rights",
  "docs/install.md#Debian package",
  "docs/install.md#Binary",
  "docs/install.md#Docker Compose",
  "docs/install.md#Kubernetes", // but for the push and the cluster
  "docs/install.md#What is left",
  "docs/operations.md#What can be watched",
  "docs/operations.md#Alerts",
  "docs/operations.md#EtcdPgSyncDown",
  "docs/operations.md#EtcdPgSyncServerDown",
  "docs/operations.md#EtcdPgSyncWalStuck",
  "docs/page.md#The status page",
  "docs/page.md#From elsewhere",
  "docs/performance.md#Performance",
  "docs/rights.md#Monitoring",
  "docs/security.md#TLS",
  "docs/sql.md#Functions",
  "docs/sql.md#Settings of a transaction",
  "docs/status.md#Status",
]);

/** Flags of other programs that the pages speak of. */
const FLAGS_OF_OTHERS = new Set([
  "--auth-token-ttl",
  "--bump-revision",
  "--auto-compaction-retention",
  "--quota-backend-bytes",
  "--max-request-bytes",
  "--minutes",
  "--seed",
  "--mutation",
  "--list",
  "--judge",
  "--quick",
  "--binary",
  "--docs",
  "--from",
  "--short",
]);

/** An anchor as GitHub makes it of a heading. */
function anchor(heading: string): string {
  return heading.toLowerCase().replaceAll(/[^\p{L}\p{N}\s_-]/gu, "").trim().replaceAll(/\s/g, "-");
}

function withoutBlocks(text: string): string {
  return text.replaceAll(/^ *```[\s\S]*?^ *```$/gm, "");
}

Deno.test("each link of the docs leads to a file, and to a heading of it", strict, () => {
  for (const [page, text] of pages) {
    for (const [, target] of withoutBlocks(text).matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^https?:/.test(target)) continue;
      const [path, hash] = target.split("#");
      const file = path === "" ? page : normalize(join(dirname(page), path));
      assert.ok(exists(file), `${page}: ${target}`);
      if (hash === undefined) continue;
      const linked = Deno.readTextFileSync(`${root}/${file}`);
      const headings = [...withoutBlocks(linked).matchAll(/^#+ (.+)$/gm)].map(([, heading]) =>
        anchor(heading)
      );
      assert.ok(headings.includes(hash), `${page}: ${target}`);
    }
  }
});

Deno.test("each page of docs/ is in the index of the README", strict, () => {
  const readme = pages.get("README.md")!;
  for (const page of pages.keys()) {
    if (page.startsWith("docs/")) assert.ok(readme.includes(`](${page})`), page);
  }
});

function exists(path: string): boolean {
  try {
    return Deno.statSync(`${root}/${path}`) !== undefined;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

Deno.test("each path that the docs name is there", strict, () => {
  for (const [page, text] of pages) {
    const spans = text.matchAll(/`((?:lib|sql|tests|bench|deploy|docs)\/[\w./-]*)`/g);
    for (const [, path] of spans) assert.ok(exists(path), `${page}: ${path}`);
  }
});

/** Code of a page, a line each: blocks of commands, and what stands between backticks. */
function codeOf(text: string): string[] {
  const blocks = [...text.matchAll(/^ *```(?:sh)?\n([\s\S]*?)^ *```$/gm)]
    .flatMap(([, body]) => body.replaceAll(/\\\n\s*/g, "").split("\n"));
  const spans = [...withoutBlocks(text).matchAll(/`([^`]+)`/g)].map(([, code]) =>
    code.replaceAll(/\s+/g, " ")
  );
  return [...blocks, ...spans];
}

interface Call {
  command: string;
  flags: string[];
}

/** The calls of the program in a line, also as `deno task start`; null: its command is not there. */
function callsOf(line: string, commands: Commands): (Call | null)[] {
  const calls = line.matchAll(
    /(?:^|[|&;(] *|timeout \S+ )(?:(?:build\/)?etcd-pg-sync|deno task (?=start\b))((?: +[^|&;)]+)*)/g,
  );
  return [...calls].map(([, rest]) => {
    const words = rest.trim().split(/\s+/);
    let command = "";
    while (commands.has(`${command} ${words[0]}`.trim())) command = `${command} ${words.shift()}`.trim();
    if (command === "" && /^[a-z]/.test(words[0] ?? "")) return null;
    return {
      command,
      flags: words.filter((word) => /^--?[a-z]/.test(word)).map((word) => word.split("=")[0]),
    };
  });
}

Deno.test("each command and each flag that the docs name is there", strict, async () => {
  const commands = await readCommands();
  const known = new Set([...commands.values()].flatMap(({ flags }) => [...flags]));
  const { tasks } = JSON.parse(Deno.readTextFileSync(`${root}/deno.json`));
  let seen = 0;
  for (const [page, text] of pages) {
    for (const line of codeOf(text)) {
      for (const call of callsOf(line, commands)) {
        seen++;
        assert.ok(call, `${page}: ${line}: there is no such command`);
        const unknown = call.flags.filter((flag) => !commands.get(call.command)!.flags.has(flag));
        assert.deepEqual(unknown, [], `${page}: ${line}`);
      }
      const [flag] = /^--[a-z-]+/.exec(line) ?? [];
      if (flag) assert.ok(known.has(flag) || FLAGS_OF_OTHERS.has(flag), `${page}: ${line}`);
      const [, task] = /\bdeno task ([a-z]+)/.exec(line) ?? [];
      if (task) assert.ok(task in tasks, `${page}: ${line}`);
    }
  }
  assert.ok(seen > 20, `${seen} calls`);
});

Deno.test("each block of the docs that can be run is run by a test, or was by hand", strict, () => {
  const found = new Set<string>();
  for (const [page, text] of pages) {
    let heading = "";
    for (const [, language, title] of text.matchAll(/^ *```(\w*)\n[\s\S]*?^ *```$|^#+ (.+)$/gm)) {
      if (title) heading = title;
      else if (language === "sh" || language === "sql" && !SQL_RUN_BY_TEST.includes(page)) {
        found.add(`${page}#${heading}`);
      }
    }
  }
  const isTested = (block: string) => block in RUN_BY_TEST || block.split("#")[0] in RUN_BY_TEST;
  const left = [...found].filter((block) => !isTested(block) && !RUN_BY_HAND.has(block));
  assert.deepEqual(left, [], "run them, and name them in this file");
  const gone = [...RUN_BY_HAND].filter((block) => !found.has(block));
  assert.deepEqual(gone, [], "they are not in the docs any more");
  for (const test of Object.values(RUN_BY_TEST)) {
    const source = Deno.readTextFileSync(`${root}/${test}`);
    assert.match(source, /stepsUnder|docs\//, `${test} reads no page`);
  }
});
