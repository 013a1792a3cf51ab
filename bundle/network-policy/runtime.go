// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
	"k8s.io/apimachinery/pkg/types"
)

// Pods are those of this node, as the container runtime tells of them: of each before a container of it starts.
// The runtime waits until changed returns.
type Pods struct {
	changed func()

	mu    sync.Mutex
	found map[string]Sandbox
}

// Follow listens to the runtime until ctx ends, and waits for one that is not there.
func (p *Pods) Follow(ctx context.Context) {
	for ctx.Err() == nil {
		plugin, err := stub.New(p,
			stub.WithPluginName("network-policy"), stub.WithPluginIdx("10"), stub.WithOnClose(func() {}))
		if err == nil {
			err = plugin.Run(ctx)
		}
		slog.Info("not connected to the container runtime", "why", err)
		select {
		case <-ctx.Done():
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// List returns the pods; false until the runtime has told which there are.
func (p *Pods) List() ([]Sandbox, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Values(p.found)), p.found != nil
}

// Synchronize is called at the begin of each connection with all pods that there are.
func (p *Pods) Synchronize(_ context.Context, pods []*api.PodSandbox, _ []*api.Container) ([]*api.ContainerUpdate, error) {
	found := map[string]Sandbox{}
	for _, pod := range pods {
		if !stopped(pod) {
			found[pod.GetId()] = sandboxOf(pod)
		}
	}
	p.mu.Lock()
	p.found = found
	p.mu.Unlock()
	p.changed()
	return nil, nil
}

// RunPodSandbox is called when a pod has its address, and no container yet.
func (p *Pods) RunPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	p.mu.Lock()
	p.found[pod.GetId()] = sandboxOf(pod)
	p.mu.Unlock()
	p.changed()
	return nil
}

// StopPodSandbox is called before a pod's address may go to another.
func (p *Pods) StopPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	p.mu.Lock()
	delete(p.found, pod.GetId())
	p.mu.Unlock()
	p.changed()
	return nil
}

// RemovePodSandbox is called instead for a pod whose start failed.
func (p *Pods) RemovePodSandbox(ctx context.Context, pod *api.PodSandbox) error {
	return p.StopPodSandbox(ctx, pod)
}

// stopped tells whether a pod has no network any more: its address may be another's by now.
func stopped(pod *api.PodSandbox) bool {
	for _, namespace := range pod.GetLinux().GetNamespaces() {
		if namespace.GetType() == "network" && namespace.GetPath() != "" {
			_, err := os.Stat(namespace.GetPath())
			return errors.Is(err, fs.ErrNotExist)
		}
	}
	return false
}

// sandboxOf leaves out addresses of version 6, which the table closes. A pod on the host's network has none.
func sandboxOf(pod *api.PodSandbox) Sandbox {
	made := Sandbox{UID: types.UID(pod.GetUid()), Namespace: pod.GetNamespace(), Labels: pod.GetLabels()}
	for _, text := range pod.GetIps() {
		if address, err := netip.ParseAddr(text); err == nil && address.Is4() {
			made.Addresses = append(made.Addresses, address)
		}
	}
	return made
}
