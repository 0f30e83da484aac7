FROM denoland/deno:2.9.6
WORKDIR /app
COPY deno.json deno.lock main.ts ./
COPY lib lib
COPY sql sql
RUN deno cache main.ts
USER deno
ENTRYPOINT ["deno", "run", "--allow-net", "--allow-env", "--allow-read", "--allow-sys", "main.ts"]
CMD ["start"]
