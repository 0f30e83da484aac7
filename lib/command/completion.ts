/** `completion`: a script that completes commands and flags, from the commands themselves. */
import { Argument, type Command } from "commander";

const SHELLS = { bash, zsh, fish } as const;

export function addCompletion(program: Command): void {
  program.command("completion").description("print a script that completes commands and flags in a shell")
    .addArgument(new Argument("<shell>", "the shell").choices(Object.keys(SHELLS)))
    .action((shell: keyof typeof SHELLS) => console.log(SHELLS[shell](wordLists(program))));
}

interface Words {
  /** Commands on the way, such as `config check`; empty for the program itself. */
  path: string;
  commands: { name: string; what: string }[];
  flags: {
    name: string;
    what: string;
    takesFile: boolean;
    takesValue: boolean;
    choices: readonly string[];
  }[];
  /** Of its argument. */
  choices: readonly string[];
}

/** What can follow each command. */
function wordLists(command: Command, path: string[] = []): Words[] {
  const help = command.createHelp();
  const commands = help.visibleCommands(command);
  const own: Words = {
    path: path.join(" "),
    commands: commands.map((child) => ({ name: child.name(), what: child.description() })),
    flags: help.visibleOptions(command).filter((option) => option.long).map((option) => ({
      name: option.long!,
      what: option.description,
      takesFile: /<(file|folder)>/.test(option.flags),
      takesValue: option.required,
      choices: option.argChoices ?? [],
    })),
    choices: command.registeredArguments.flatMap((argument) => argument.argChoices ?? []),
  };
  const below = command.commands.flatMap((child) => wordLists(child, [...path, child.name()]));
  return [own, ...below];
}

/** Follows the words that are commands; then what may follow, by the word before and the one that is begun. */
function bash(lists: Words[]): string {
  const following = lists.map(({ path, commands, flags, choices }) => {
    const words = [...commands.map(({ name }) => name), ...choices, ...flags.map(({ name }) => name)];
    return `    "${path}") words="${words.join(" ")}" ;;`;
  });
  const values = lists.flatMap(({ path, flags }) =>
    flags.filter(({ takesValue }) => takesValue).map(({ name, takesFile, choices }) => {
      const reply = takesFile ? '-f -- "$current"' : `-W "${choices.join(" ")}" -- "$current"`;
      return `    "${path} ${name}") COMPREPLY=($(compgen ${reply})); return ;;`;
    })
  );
  const paths = lists.map(({ path }) => `"${path}"`).filter((path) => path !== '""');
  return `# etcd-pg-sync: completion for bash
_etcd_pg_sync() {
  local current="\${COMP_WORDS[COMP_CWORD]}" before="\${COMP_WORDS[COMP_CWORD-1]}" path="" words="" next i
  for ((i = 1; i < COMP_CWORD; i++)); do
    next="\${path:+$path }\${COMP_WORDS[i]}"
    case "$next" in
      ${paths.join("|")}) path="$next" ;;
    esac
  done
  case "$path $before" in
${values.join("\n")}
  esac
  case "$path" in
${following.join("\n")}
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}
complete -F _etcd_pg_sync etcd-pg-sync`;
}

/** zsh runs bash's: sourced, and also as the file `_etcd-pg-sync` of its `fpath`, which is run to complete the first word. */
function zsh(lists: Words[]): string {
  return `#compdef etcd-pg-sync
(( $+functions[compdef] )) || { autoload -U compinit && compinit }
autoload -U +X bashcompinit && bashcompinit
${bash(lists)}
if [[ $funcstack[1] == _etcd-pg-sync ]]; then _bash_complete -F _etcd_pg_sync; fi`;
}

function fish(lists: Words[]): string {
  const quote = (text: string) => `'${text.replaceAll("\\", "\\\\").replaceAll("'", "\\'")}'`;
  const lines = lists.flatMap(({ path, commands, flags, choices }) => {
    const seen = path.split(" ").filter((name) => name !== "");
    const not = commands.map(({ name }) => name).join(" ");
    const conditions = [
      ...seen.map((name) => `__fish_seen_subcommand_from ${name}`),
      ...(not ? [`not __fish_seen_subcommand_from ${not}`] : []),
    ];
    const when = `complete -c etcd-pg-sync -n ${quote(conditions.join("; and ") || "true")}`;
    return [
      ...commands.map(({ name, what }) => `${when} -a ${name} -d ${quote(what)}`),
      ...choices.map((choice) => `${when} -a ${choice}`),
      ...flags.map(({ name, what, takesValue, takesFile, choices }) => {
        const value = takesFile ? " -r -F" : takesValue ? ` -x -a ${quote(choices.join(" "))}` : "";
        return `${when} -l ${name.slice(2)} -d ${quote(what)}${value}`;
      }),
    ];
  });
  return ["# etcd-pg-sync: completion for fish", "complete -c etcd-pg-sync -f", ...lines].join("\n");
}
