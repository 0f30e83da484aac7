/** Which fault comes next. Two at a time, never on the same thing: those on servers, and those on what is between. */
import type { Random } from "../support/random.ts";
import { type Fault, FAULTS } from "./faults.ts";

/** Names without end. */
export type Lane = Iterator<string, never>;

/** The names for each lane. */
export function faultLanes(names: string[]): string[][] {
  const server = ({ on }: Fault) => on === "etcd" || on === "postgres";
  return [names.filter((name) => server(FAULTS[name])), names.filter((name) => !server(FAULTS[name]))]
    .filter((lane) => lane.length > 0);
}

/** All in a random order, then all in another one: chance leaves none out for long. */
export function* dealt(names: string[], random: Random): Generator<string, never> {
  for (;;) yield* random.sample(names, names.length);
}
