/** `ETCD_PG_SYNC_*`: those that are settings, those that are something else, and those that are a mistake. */
import { Fatal } from "../errors.ts";
import { didYouMean } from "./nearest.ts";
import { NAMES, variableOf } from "./table.ts";

/** Variables that are no settings of a stream. */
export const OTHER_VARIABLES: Record<string, string> = {
  ETCD_PG_SYNC_CONFIG: "the file of settings, as --config",
  ETCD_PG_SYNC_ETCD: "the etcd binary that --embedded starts",
  ETCD_PG_SYNC_POSTGRES_BIN: "the folder of the PostgreSQL that --embedded starts",
  ETCD_PG_SYNC_STACK: "an error that ends the program is shown with its stack",
};

/** Those of the tests, which reach the program that they start. */
const OF_TESTS = /^ETCD_PG_SYNC_TEST_/;

/** Kubernetes gives every pod variables for each service, by its name: one named etcd-pg-sync gives ETCD_PG_SYNC_PORT. */
const OF_KUBERNETES =
  /_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)=|_PORT=(tcp|udp|sctp):/;

/** @throws {Fatal} for one that is none of these, with the nearest name */
export function refuseUnknownVariables(env: Record<string, string>): void {
  const known = [...NAMES.map(variableOf), ...Object.keys(OTHER_VARIABLES)];
  for (const name of Object.keys(env).sort()) {
    if (!name.startsWith("ETCD_PG_SYNC_") || known.includes(name)) continue;
    if (OF_TESTS.test(name) || OF_KUBERNETES.test(`${name}=${env[name]}`)) continue;
    throw new Fatal(
      "configuration",
      `Cannot use the variable ${name}: there is no such setting${didYouMean(name, known)}`,
    );
  }
}
