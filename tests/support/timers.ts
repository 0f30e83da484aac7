/** Timers that repeat, which the test itself lets tick. */
export function heldTimers(): Disposable & { tick(times: number): void; running(): number } {
  const { setInterval, clearInterval } = globalThis;
  const held = new Map<number, () => void>();
  let last = 0;
  Object.assign(globalThis, {
    setInterval: (fn: () => void) => (held.set(++last, fn), last),
    clearInterval: (id: number) => held.delete(id),
  });
  return {
    tick: (times) => Array.from({ length: times }).forEach(() => held.forEach((fn) => fn())),
    running: () => held.size,
    [Symbol.dispose]: () => Object.assign(globalThis, { setInterval, clearInterval }),
  };
}
