# The program as one file on a base without a shell, for a root file system that is read-only:
#   docker build --build-arg COMMIT=$(git rev-parse --short=12 HEAD) -t etcd-pg-sync .
FROM denoland/deno:2.9.6 AS build
WORKDIR /app
COPY deno.json deno.lock main.ts ./
COPY deploy/release/compile.ts deploy/release/
COPY sql sql
COPY lib lib
ARG COMMIT
RUN deno task compile

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /app/build/etcd-pg-sync /usr/bin/etcd-pg-sync
USER 65532:65532
ENTRYPOINT ["/usr/bin/etcd-pg-sync"]
CMD ["start"]
