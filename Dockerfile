# A static binary and certificates, nothing else; runs as an ordinary user.
FROM golang:1.26 AS build
ARG VERSION=dev
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -buildvcs=false -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /out/kafka-failover ./cmd/kafka-failover

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /out/kafka-failover /kafka-failover
USER 65532:65532
EXPOSE 4195
ENTRYPOINT ["/kafka-failover"]
CMD ["run", "/kafka-failover.yaml"]
