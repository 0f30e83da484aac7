/** etcd's versions, as far as the protocol depends on them. */

function compare(a: string, b: string): number {
  const [left, right] = [a, b].map((version) => version.split(".").map((part) => parseInt(part)));
  for (let i = 0; i < 3; i++) {
    if ((left[i] ?? 0) !== (right[i] ?? 0)) return (left[i] ?? 0) - (right[i] ?? 0);
  }
  return 0;
}

function minor(version: string): string {
  return version.split(".").slice(0, 2).join(".");
}

function isBefore(version: string, fixed: Record<string, string>): boolean {
  const fix = fixed[minor(version)];
  return fix !== undefined && compare(version, fix) < 0;
}

export interface EtcdVersion {
  supported: boolean;
  /** A progress notification can overtake events (etcd issue 15220). */
  carefulProgress: boolean;
  /** Bugs of the server that its operator should know, in words. */
  warnings: string[];
}

export function etcdVersion(version: string): EtcdVersion {
  const warnings: string[] = [];
  if (isBefore(version, { "3.4": "3.4.42", "3.5": "3.5.28", "3.6": "3.6.9" })) {
    warnings.push("its linearizable reads can be stale");
  }
  if (isBefore(version, { "3.4": "3.4.36", "3.5": "3.5.18" })) {
    warnings.push("a watch that begins at the compact revision can lose deletes");
  }
  return {
    supported: compare(version, "3.4.0") >= 0,
    carefulProgress: isBefore(version, { "3.4": "3.4.25", "3.5": "3.5.8" }),
    warnings,
  };
}
