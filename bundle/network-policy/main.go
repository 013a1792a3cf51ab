// SPDX-License-Identifier: Apache-2.0

// Command koren-network-policy has the kernel enforce a node's NetworkPolicy objects.
//
//	koren-network-policy close               let no pod reach anything, unless rules are loaded already
//	koren-network-policy run KUBECONFIG      follow the cluster and the container runtime, and keep the rules
//	koren-network-policy render <WORLD       print the rules that follow from a World in JSON
//
// Rules are in the node's packet filter: they hold while this program does not run. A new pod reaches nothing until
// it is known, and is known before its containers start: the container runtime waits for it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

const (
	// Changes of the cluster come in bursts. A pod of this node does not wait for it.
	settle = 50 * time.Millisecond
	again  = time.Second
	// How soon another cluster's kubeconfig is noticed.
	lookAgain = 2 * time.Second
)

var errReplaced = errors.New("the file is another now, as the node's cluster may be")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	var err error
	switch {
	case len(os.Args) == 2 && os.Args[1] == "close":
		err = new(Table).Close()
	case len(os.Args) == 3 && os.Args[1] == "run":
		err = run(ctx, os.Args[2])
	case len(os.Args) == 2 && os.Args[1] == "render":
		err = render()
	default:
		err = fmt.Errorf("usage: %s close | run KUBECONFIG | render", os.Args[0])
	}
	if err != nil {
		slog.Error(err.Error())
		os.Exit(1)
	}
}

func render() error {
	var world World
	if err := json.NewDecoder(os.Stdin).Decode(&world); err != nil {
		return err
	}
	_, err := fmt.Print(Compile(world))
	return err
}

func run(ctx context.Context, kubeconfig string) error {
	node, err := os.Hostname()
	if err != nil {
		return err
	}
	wanted := make(chan struct{}, 1)
	ask := func() {
		select {
		case wanted <- struct{}{}:
		default:
		}
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	go endWithFile(ctx, kubeconfig, end)
	cluster, err := Watch(ctx, kubeconfig, ask)
	if err != nil {
		return err
	}
	if !cluster.Synced(ctx) {
		return reason(ctx)
	}
	keeper := &keeper{node: node, cluster: cluster}
	keeper.pods.changed = func() {
		if err := keeper.apply(); err != nil {
			slog.Error("a pod stays as it was", "why", err)
			ask()
		}
	}
	go keeper.pods.Follow(ctx)
	for {
		select {
		case <-ctx.Done():
			return reason(ctx)
		case <-wanted:
		}
		time.Sleep(settle)
		if err := keeper.apply(); err != nil {
			slog.Error("the rules stay as they were", "why", err)
			time.AfterFunc(again, ask)
		}
	}
}

// endWithFile ends the program when there is another kubeconfig, with which it starts again.
func endWithFile(ctx context.Context, path string, end context.CancelCauseFunc) {
	before, err := os.Stat(path)
	for err == nil && ctx.Err() == nil {
		time.Sleep(lookAgain)
		now, gone := os.Stat(path)
		if gone == nil && (!os.SameFile(before, now) || now.ModTime() != before.ModTime()) {
			end(fmt.Errorf("%s: %w", path, errReplaced))
		}
	}
}

// reason is why the program ends; nil when it was told to.
func reason(ctx context.Context) error {
	if why := context.Cause(ctx); errors.Is(why, errReplaced) {
		return why
	}
	return nil
}

// keeper brings the table to what the cluster and the runtime tell.
type keeper struct {
	node    string
	cluster *Cluster
	pods    Pods

	mu    sync.Mutex
	table Table
}

func (k *keeper) apply() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	sandboxes, known := k.pods.List()
	if !known {
		return nil
	}
	return k.table.Apply(Compile(k.cluster.World(k.node, sandboxes)))
}
