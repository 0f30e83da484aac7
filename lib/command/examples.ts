/** Examples of every command, for the end of its `--help`. */
import type { Command } from "commander";

const DSNS = "-p postgres://sync@db/app -e etcd://etcd-1,etcd-2/app/";

/** By the command's name, as it is typed. */
const EXAMPLES: Record<string, [what: string, line: string][]> = {
  start: [
    ["a PostgreSQL and an etcd of its own, to try it", "start --embedded"],
    ["mirror the keys under /app/ into schema etcd", `start ${DSNS} --schema etcd`],
    ["by a file of settings", "start --config /etc/etcd-pg-sync.yaml"],
  ],
  status: [
    ["how the stream in schema etcd stands, and what to do", `status ${DSNS} --schema etcd`],
    ["for a script: 0 only where it is healthy", `status ${DSNS} --format json > status.json`],
    ["look again every second", `status ${DSNS} --watch`],
  ],
  validate: [
    ["is the mirror right?", `validate ${DSNS}`],
    ["make it right", `validate ${DSNS} --fix`],
    ["only a part of it, for a script", `validate ${DSNS} --prefix /app/users/ --format json --show 1000`],
  ],
  sync: [
    ["as start, but ends when both sides are together", `sync ${DSNS}`],
    ["then compare each key, and repair what differs", `sync ${DSNS} --full`],
    ["what would it do?", `sync ${DSNS} --dry-run`],
  ],
  config: [
    ["what is in force, and where each value comes from", "config --config /etc/etcd-pg-sync.yaml"],
    ["for a script", "config --config /etc/etcd-pg-sync.yaml --format json"],
  ],
  "config check": [
    ["what the servers lack, and the statements that grant it", `config check ${DSNS}`],
  ],
  pause: [[
    "stop the stream in schema etcd while you work on it",
    'pause --schema etcd --reason "moving etcd"',
  ]],
  resume: [["end it", "resume --schema etcd"]],
  resync: [
    ["compare all of it with etcd again", "resync --schema etcd"],
    ["only the keys under /app/flags/", "resync --schema etcd --prefix /app/flags/"],
  ],
  completion: [
    ["in bash", "completion bash > ~/.local/share/bash-completion/completions/etcd-pg-sync"],
    ["in zsh, at the end of ~/.zshrc", "completion zsh >> ~/.zshrc"],
    ["in fish", "completion fish > ~/.config/fish/completions/etcd-pg-sync.fish"],
  ],
};

/** Of the command that is typed so; the lines are whole. */
export function examplesOf(path: string[]): { what: string; line: string }[] {
  const examples = EXAMPLES[path.join(" ")] ?? [];
  return examples.map(([what, line]) => ({ what, line: `etcd-pg-sync ${line}` }));
}

/** Every command below `program` gets its examples; a new one is to bring some (a test asks for them). */
export function addExamples(program: Command, path: string[] = []): void {
  for (const command of program.commands) {
    const own = [...path, command.name()];
    addExamples(command, own);
    const examples = examplesOf(own);
    if (examples.length === 0) continue;
    const lines = examples.map(({ what, line }) => `  # ${what}\n  ${line}`);
    command.addHelpText("after", `\nExamples:\n${lines.join("\n")}`);
  }
}
