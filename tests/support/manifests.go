// Reads Kubernetes manifests strictly: a field that the API does not have is an error. Run by tests/kubernetes.sh.
package main

import (
	"fmt"
	"os"
	"strings"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	"sigs.k8s.io/yaml"
)

var kinds = map[string]any{
	"ConfigMap":           &core.ConfigMap{},
	"Deployment":          &apps.Deployment{},
	"NetworkPolicy":       &networking.NetworkPolicy{},
	"PodDisruptionBudget": &policy.PodDisruptionBudget{},
	"Service":             &core.Service{},
	"ServiceAccount":      &core.ServiceAccount{},
}

func main() {
	text, err := os.ReadFile(os.Args[1])
	refuse(err)
	for _, document := range strings.Split(string(text), "\n---\n") {
		var head struct{ Kind string }
		refuse(yaml.Unmarshal([]byte(document), &head))
		object, known := kinds[head.Kind]
		if !known {
			refuse(fmt.Errorf("no type for kind %q, add it to tests/support/manifests.go", head.Kind))
		}
		if err := yaml.UnmarshalStrict([]byte(document), object); err != nil {
			refuse(fmt.Errorf("%s: %w", head.Kind, err))
		}
		fmt.Println("manifest ok:", head.Kind)
	}
}

func refuse(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
