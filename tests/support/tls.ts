/** Certificates for the tests, made by openssl. */

import { join } from "node:path";

export interface Certificate {
  /** Paths of PEM files. */
  cert: string;
  key: string;
}

export interface Authority {
  /** Path of its certificate. */
  ca: string;
  /** A certificate for these names and addresses, as `DNS:localhost,IP:127.0.0.1`. */
  issue(name: string, altNames: string): Promise<Certificate>;
}

export async function makeAuthority(dir: string, name = "ca"): Promise<Authority> {
  const own = files(dir, name);
  await openssl([...selfSigned(own), "-subj", `/CN=${name}`]);
  return {
    ca: own.cert,
    async issue(subject, altNames) {
      const made = files(dir, `${name}-${subject}`);
      await openssl([
        ...selfSigned(made),
        ...["-subj", `/CN=${subject}`, "-CA", own.cert, "-CAkey", own.key],
        ...["-addext", `subjectAltName=${altNames}`, "-addext", "basicConstraints=critical,CA:FALSE"],
      ]);
      return made;
    },
  };
}

function files(dir: string, name: string): Certificate {
  return { cert: join(dir, `${name}.pem`), key: join(dir, `${name}.key`) };
}

function selfSigned({ cert, key }: Certificate): string[] {
  const kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
  return ["req", ...kind, "-keyout", key, "-out", cert];
}

async function openssl(args: string[]): Promise<void> {
  const { success, stderr } = await new Deno.Command("openssl", { args, stdin: "null" }).output();
  if (!success) throw new Error(`Cannot make a certificate: ${new TextDecoder().decode(stderr).trim()}`);
}
