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
	cluster, err := Watch(ctx, kubeconfig, ask)
	if err != nil {
		return err
	}
	if !cluster.Synced(ctx) {
		return nil
	}
	keeper := &keeper{node: node, cluster: cluster}
	keeper.pods.changed = func() {
		if err := keeper.apply(); err != nil {
			slog.Error("a pod stays as it was", "why", err)
			ask()
		}
	}
	go keeper.pods.Follow(ctx)
	replaced := replacement(ctx, kubeconfig)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-replaced:
			return fmt.Errorf("%s is another now: the node's cluster was made anew", kubeconfig)
		case <-wanted:
		}
		time.Sleep(settle)
		if err := keeper.apply(); err != nil {
			slog.Error("the rules stay as they were", "why", err)
			time.AfterFunc(again, ask)
		}
	}
}

// replacement is closed when there is another file.
func replacement(ctx context.Context, path string) <-chan struct{} {
	replaced := make(chan struct{})
	before, err := os.Stat(path)
	go func() {
		for err == nil && ctx.Err() == nil {
			time.Sleep(lookAgain)
			now, gone := os.Stat(path)
			if gone == nil && (!os.SameFile(before, now) || now.ModTime() != before.ModTime()) {
				close(replaced)
				return
			}
		}
	}()
	return replaced
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
