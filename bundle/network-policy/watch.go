// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

// Cluster is what the API server tells that rules follow from.
type Cluster struct {
	pods, namespaces, nodes, policies cache.SharedInformer
}

// Watch begins to follow the cluster, and calls changed after each change.
func Watch(ctx context.Context, kubeconfig string, changed func()) (*Cluster, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	if err := errors.Join(corev1.AddToScheme(scheme), networkingv1.AddToScheme(scheme)); err != nil {
		return nil, err
	}
	follow := func(group schema.GroupVersion, path, resource string, kind runtime.Object) (cache.SharedInformer, error) {
		of := rest.CopyConfig(config)
		of.APIPath, of.GroupVersion = path, &group
		of.ContentType = runtime.ContentTypeProtobuf
		of.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
		client, err := rest.RESTClientFor(of)
		if err != nil {
			return nil, err
		}
		informer := cache.NewSharedInformer(
			cache.NewListWatchFromClient(client, resource, metav1.NamespaceAll, fields.Everything()), kind, 0)
		if err := informer.SetTransform(trimmed); err != nil {
			return nil, err
		}
		_, err = informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { changed() },
			UpdateFunc: func(any, any) { changed() },
			DeleteFunc: func(any) { changed() },
		})
		go informer.RunWithContext(ctx)
		return informer, err
	}
	c, all := &Cluster{}, []error{}
	for _, one := range []struct {
		informer *cache.SharedInformer
		group    schema.GroupVersion
		path     string
		resource string
		kind     runtime.Object
	}{
		{&c.pods, corev1.SchemeGroupVersion, "/api", "pods", &corev1.Pod{}},
		{&c.namespaces, corev1.SchemeGroupVersion, "/api", "namespaces", &corev1.Namespace{}},
		{&c.nodes, corev1.SchemeGroupVersion, "/api", "nodes", &corev1.Node{}},
		{&c.policies, networkingv1.SchemeGroupVersion, "/apis", "networkpolicies", &networkingv1.NetworkPolicy{}},
	} {
		*one.informer, err = follow(one.group, one.path, one.resource, one.kind)
		all = append(all, err)
	}
	return c, errors.Join(all...)
}

// Synced waits until all is known that there was at the beginning; false when ctx ended before.
func (c *Cluster) Synced(ctx context.Context) bool {
	return cache.WaitForCacheSync(ctx.Done(),
		c.pods.HasSynced, c.namespaces.HasSynced, c.nodes.HasSynced, c.policies.HasSynced)
}

// World is the cluster as it is now.
func (c *Cluster) World(node string, sandboxes []Sandbox) World {
	return World{
		Node: node, Sandboxes: sandboxes,
		Pods: listed[*corev1.Pod](c.pods), Namespaces: listed[*corev1.Namespace](c.namespaces),
		Nodes: listed[*corev1.Node](c.nodes), Policies: listed[*networkingv1.NetworkPolicy](c.policies),
	}
}

func listed[T any](informer cache.SharedInformer) []T {
	var found []T
	for _, one := range informer.GetStore().List() {
		found = append(found, one.(T))
	}
	return found
}

// trimmed leaves of an object what rules follow from: the rest would be most of this program's memory.
func trimmed(object any) (any, error) {
	switch one := object.(type) {
	case *corev1.Pod:
		short := &corev1.Pod{ObjectMeta: metaOf(one.ObjectMeta)}
		short.Spec.NodeName, short.Spec.HostNetwork = one.Spec.NodeName, one.Spec.HostNetwork
		for _, has := range one.Spec.Containers {
			short.Spec.Containers = append(short.Spec.Containers, corev1.Container{Ports: has.Ports})
		}
		for _, has := range one.Spec.InitContainers {
			short.Spec.InitContainers = append(short.Spec.InitContainers, corev1.Container{Ports: has.Ports})
		}
		short.Status.Phase, short.Status.PodIPs = one.Status.Phase, one.Status.PodIPs
		return short, nil
	case *corev1.Node:
		short := &corev1.Node{ObjectMeta: metaOf(one.ObjectMeta)}
		short.Spec.PodCIDRs = one.Spec.PodCIDRs
		return short, nil
	case *networkingv1.NetworkPolicy:
		one.ManagedFields, one.Annotations = nil, nil
	case *corev1.Namespace:
		one.ManagedFields, one.Annotations = nil, nil
	}
	return object, nil
}

func metaOf(meta metav1.ObjectMeta) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name: meta.Name, Namespace: meta.Namespace, UID: meta.UID, ResourceVersion: meta.ResourceVersion, Labels: meta.Labels,
	}
}
