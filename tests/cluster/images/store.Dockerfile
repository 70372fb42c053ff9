# What the pods of a proxy count their limits in, for tests: Debian's redis-server, which its folder was filled with.
FROM scratch
COPY root /
USER 65532:65532
ENTRYPOINT ["/usr/bin/redis-server"]
