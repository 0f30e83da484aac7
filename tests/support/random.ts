/** Random numbers that come again: the seed is printed, with the line that runs the test again. */

export interface Random {
  /** Both ends included. */
  integer(least: number, most: number): number;
  chance(share: number): boolean;
  pick<T>(items: readonly T[]): T;
  /** Different ones. */
  sample<T>(items: readonly T[], count: number): T[];
  /** Another one, whose numbers do not depend on how many this one gives. */
  fork(): Random;
}

export function seeded(file: string): Random {
  const seed = Number(Deno.env.get("ETCD_PG_SYNC_TEST_SEED") ?? Math.floor(Math.random() * 2 ** 31));
  console.log(`seed ${seed}; again: ETCD_PG_SYNC_TEST_SEED=${seed} deno task test ${file}`);
  return random(seed);
}

/** mulberry32 */
export function random(seed: number): Random {
  let state = seed >>> 0;
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  const integer = (least: number, most: number) => least + Math.floor(next() * (most - least + 1));
  return {
    integer,
    chance: (share) => next() < share,
    pick: (items) => items[integer(0, items.length - 1)],
    sample: (items, count) => {
      const rest = [...items];
      return Array.from({ length: count }, () => rest.splice(integer(0, rest.length - 1), 1)[0]);
    },
    fork: () => random(integer(0, 2 ** 31)),
  };
}
