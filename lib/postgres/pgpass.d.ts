/** npm pgpass: the password file as libpq reads it. */
export default function pgpass(
  connection: { host: string; port: number; user: string; database: string },
  found: (password: string | undefined) => void,
): void;
