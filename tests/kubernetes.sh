#!/usr/bin/env bash
# The manifests of deploy/kubernetes: built by kustomize, checked by kube-score and, strictly, by the types of Kubernetes' API.
# Needs Go and its proxy; the first time takes minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
go run sigs.k8s.io/kustomize/kustomize/v5@v5.7.1 build deploy/kubernetes >"$work/all.yaml"
# A limit of CPU would slow a takeover down; a tag that names a version is not pulled again
go run github.com/zegl/kube-score/cmd/kube-score@v1.20.0 score --ignore-container-cpu-limit \
  --ignore-test container-image-pull-policy "$work/all.yaml"
cp tests/support/manifests.go "$work/main.go"
cd "$work"
go mod init manifests 2>/dev/null
go get k8s.io/api@v0.33.0 sigs.k8s.io/yaml@v1.4.0 2>/dev/null
go mod tidy 2>/dev/null
go run . all.yaml
