/** `config check`, PostgreSQL's side: nothing is written. */
import { type Config, identity, withoutSecrets } from "../config.ts";
import { postgresOptions } from "../connect.ts";
import { sentence } from "../errors.ts";
import type { Log } from "../log.ts";
import { quoteIdentifier, Session } from "../postgres/client.ts";
import { readTarget } from "../postgres/dsn.ts";
import { isInstalled } from "../postgres/migrate.ts";
import { installedStream, type PostgresRights, readRights } from "../postgres/rights.ts";
import { broken, type Finding } from "./finding.ts";
import { Troubles } from "../troubles.ts";

const server = "PostgreSQL";

/** @returns also the id of the stream that is installed, by which etcd's side knows its marker */
export async function checkPostgres(
  config: Config,
  log: Log,
): Promise<{ findings: Finding[]; streamId?: string }> {
  const where = `'${withoutSecrets(config.postgresDsn)}'`;
  try {
    await using session = await Session.open(postgresOptions(config, new Troubles(log)));
    return await ask(session, config, where);
  } catch (error) {
    return { findings: [broken(server, `at ${where}`, error, connectRemedy(config, error))] };
  }
}

async function ask(session: Session, config: Config, where: string) {
  const rights = await readRights(session, config.schema);
  const findings: Finding[] = [
    { server, state: "ok", what: `version ${rights.version} at ${where}, user '${rights.user}'` },
    ...schemaFindings(rights, config.schema),
    seesOthers(rights),
  ];
  if (rights.encoding === "UTF8") {
    findings.push({ server, state: "ok", what: `database '${rights.database}' has encoding UTF8` });
  }
  let streamId: string | undefined;
  try {
    const installed = rights.usage && !rights.foreignOwner && await isInstalled(session, config.schema);
    if (installed) {
      const stream = await streamFinding(session, config);
      findings.push(stream.finding);
      streamId = stream.streamId;
    }
  } catch (error) { // the server, its encoding, or another version of the schema
    findings.push(broken(server, "", error, encodingRemedy(rights)));
  }
  return { findings, streamId };
}

function schemaFindings(rights: PostgresRights, schema: string): Finding[] {
  const [name, user] = [quoteIdentifier(schema), quoteIdentifier(rights.user)];
  const wrong = (what: string, remedy: string): Finding => ({
    server,
    state: "wrong",
    kind: "permission",
    what,
    remedy: [remedy],
  });
  if (!rights.schemaThere) {
    return [
      rights.create
        ? { server, state: "ok", what: `schema '${schema}' is not there; 'start' makes it` }
        : wrong(
          `schema '${schema}' is not there, and user '${rights.user}' may not make one`,
          `CREATE SCHEMA ${name} AUTHORIZATION ${user};`,
        ),
    ];
  }
  if (!rights.usage || !rights.create) {
    return [
      wrong(
        `user '${rights.user}' may not create tables in schema '${schema}'`,
        `GRANT USAGE, CREATE ON SCHEMA ${name} TO ${user};`,
      ),
    ];
  }
  if (rights.foreignOwner) {
    return [
      wrong(
        `what is installed in schema '${schema}' belongs to '${rights.foreignOwner}', not to user '${rights.user}'`,
        `GRANT ${quoteIdentifier(rights.foreignOwner)} TO ${user};`,
      ),
    ];
  }
  return [{
    server,
    state: "ok",
    what: `user '${rights.user}' may use schema '${schema}', and create in it`,
  }];
}

function seesOthers(rights: PostgresRights): Finding {
  if (rights.seesOthers) return { server, state: "ok", what: "it sees whose locks stand in its way" };
  return {
    server,
    state: "advice",
    what: "it cannot see whose locks stand in its way",
    remedy: [`GRANT pg_read_all_stats TO ${quoteIdentifier(rights.user)};`],
  };
}

async function streamFinding(
  session: Session,
  config: Config,
): Promise<{ finding: Finding; streamId?: string }> {
  const found = await installedStream(session);
  const wanted = identity(config);
  const holds = found &&
    `schema '${config.schema}' holds stream '${found.stream}' on prefix '${found.prefix}'`;
  if (!found) {
    return {
      finding: { server, state: "ok", what: `schema '${config.schema}' is installed, without a stream` },
    };
  }
  if (found.stream === wanted.stream && found.prefix === wanted.prefixText) {
    return { finding: { server, state: "ok", what: holds! }, streamId: found.streamId };
  }
  const what =
    `${holds}, not '${wanted.stream}' on '${wanted.prefixText}': give that one, or another --schema`;
  return { finding: { server, state: "wrong", kind: "configuration", what } };
}

function encodingRemedy({ encoding, database }: PostgresRights): string[] | undefined {
  if (encoding === "UTF8") return undefined;
  return [`CREATE DATABASE ${quoteIdentifier(`${database}_utf8`)} ENCODING 'UTF8' TEMPLATE template0;`];
}

/** By SQLSTATE: what lets this user in. */
function connectRemedy(config: Config, error: unknown): string[] | undefined {
  const target = readTarget(config.postgresDsn, (name) => Deno.env.get(name));
  const [user, database] = [target.user, target.database].map(quoteIdentifier);
  switch ((error as { code?: unknown }).code) {
    case "3D000":
      return [`CREATE DATABASE ${database} OWNER ${user} ENCODING 'UTF8' TEMPLATE template0;`];
    case "42501":
      return [`GRANT CONNECT ON DATABASE ${database} TO ${user};`];
    case "28000":
      return /does not exist/.test(sentence(error)) ? [`CREATE ROLE ${user} LOGIN PASSWORD '…';`] : undefined;
  }
}
