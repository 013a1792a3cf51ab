// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

const table = "koren_network_policy"

// Sandbox is a pod of this node as the container runtime made it. The API server tells its address much later.
type Sandbox struct {
	UID       types.UID         `json:"uid"`
	Namespace string            `json:"namespace"`
	Labels    map[string]string `json:"labels"`
	Addresses []netip.Addr      `json:"addresses"`
}

// World is all that the rules of a node follow from.
type World struct {
	Node       string                        `json:"node"`
	Sandboxes  []Sandbox                     `json:"sandboxes"`
	Pods       []*corev1.Pod                 `json:"pods"`
	Namespaces []*corev1.Namespace           `json:"namespaces"`
	Nodes      []*corev1.Node                `json:"nodes"`
	Policies   []*networkingv1.NetworkPolicy `json:"policies"`
}

// Ruleset is the content of the node's table: what a pod may do is a chain, by the pod's address.
// A pod whose address maps to no chain name is not restricted; one that is in no map reaches nothing.
type Ruleset struct {
	Chains  map[string]string
	Sets    map[string]Set
	Nodes   []string
	Egress  map[netip.Addr]string
	Ingress map[netip.Addr]string
}

// Set holds addresses of pods, or pairs of an address and a port.
type Set struct {
	Type     string
	Elements []string
}

type pod struct {
	namespace string
	labels    labels.Set
	addresses []netip.Addr
	ports     []corev1.ContainerPort
}

// direction is what differs between the two kinds of rules.
type direction struct {
	kind networkingv1.PolicyType
	peer string // the packet's field that has the peer's address
	deny string
}

var (
	egress = direction{networkingv1.PolicyTypeEgress, "daddr", "counter name refused_egress reject with icmpx admin-prohibited"}
	// A peer's address may not be known yet: who is not answered tries again.
	ingress = direction{networkingv1.PolicyTypeIngress, "saddr", "counter name refused_ingress drop"}
)

type compiler struct {
	pods       []pod
	namespaces map[string]labels.Set
	out        Ruleset
}

// Compile makes the rules of a node.
func Compile(world World) Ruleset {
	c := compiler{namespaces: map[string]labels.Set{}, out: Ruleset{
		Chains: map[string]string{}, Sets: map[string]Set{},
		Egress: map[netip.Addr]string{}, Ingress: map[netip.Addr]string{},
	}}
	for _, namespace := range world.Namespaces {
		c.namespaces[namespace.Name] = namespace.Labels
	}
	for _, node := range world.Nodes {
		// flannel's own interface has the first address of the node's range: other nodes' processes come from it.
		for _, text := range node.Spec.PodCIDRs {
			if cidr, err := netip.ParsePrefix(text); err == nil && cidr.Addr().Is4() {
				c.out.Nodes = append(c.out.Nodes, cidr.Addr().String())
			}
		}
	}
	slices.Sort(c.out.Nodes)
	local := c.gather(world)
	for _, policy := range world.Policies {
		// The first pod of those that a policy selects finds its chains there.
		alone := []*networkingv1.NetworkPolicy{policy}
		c.chain(egress, pod{namespace: policy.Namespace}, alone)
		c.chain(ingress, pod{namespace: policy.Namespace}, alone)
	}
	for _, one := range local {
		var selected []*networkingv1.NetworkPolicy
		for _, policy := range world.Policies {
			if policy.Namespace == one.namespace && matches(&policy.Spec.PodSelector, one.labels) {
				selected = append(selected, policy)
			}
		}
		out, in := c.chain(egress, one, selected), c.chain(ingress, one, selected)
		for _, address := range one.addresses {
			c.out.Egress[address], c.out.Ingress[address] = out, in
		}
	}
	return c.out
}

// gather lists all pods that have an address, and returns those of this node.
func (c *compiler) gather(world World) []pod {
	known := map[types.UID]*corev1.Pod{}
	for _, one := range world.Pods {
		known[one.UID] = one
	}
	var local []pod
	for _, sandbox := range world.Sandboxes {
		made := pod{namespace: sandbox.Namespace, labels: sandbox.Labels, addresses: sandbox.Addresses}
		if one := known[sandbox.UID]; one != nil {
			made.labels, made.ports = one.Labels, ports(one)
		}
		local = append(local, made)
	}
	c.pods = slices.Clone(local)
	for _, one := range world.Pods {
		ended := one.Status.Phase == corev1.PodSucceeded || one.Status.Phase == corev1.PodFailed
		if one.Spec.NodeName == world.Node || one.Spec.HostNetwork || ended {
			continue
		}
		made := pod{namespace: one.Namespace, labels: one.Labels, ports: ports(one)}
		for _, ip := range one.Status.PodIPs {
			if address, err := netip.ParseAddr(ip.IP); err == nil && address.Is4() {
				made.addresses = append(made.addresses, address)
			}
		}
		c.pods = append(c.pods, made)
	}
	return local
}

func ports(one *corev1.Pod) []corev1.ContainerPort {
	var found []corev1.ContainerPort
	for _, container := range slices.Concat(one.Spec.InitContainers, one.Spec.Containers) {
		found = append(found, container.Ports...)
	}
	return found
}

// chain makes the chain of a pod that these policies select; without any in this direction it returns "".
func (c *compiler) chain(d direction, one pod, policies []*networkingv1.NetworkPolicy) string {
	var lines []string
	restricted := false
	for _, policy := range policies {
		if !slices.Contains(policy.Spec.PolicyTypes, d.kind) {
			continue
		}
		restricted = true
		if d.kind == networkingv1.PolicyTypeEgress {
			for _, rule := range policy.Spec.Egress {
				lines = append(lines, c.rule(d, one, policy.Namespace, rule.To, rule.Ports)...)
			}
		} else {
			for _, rule := range policy.Spec.Ingress {
				lines = append(lines, c.rule(d, one, policy.Namespace, rule.From, rule.Ports)...)
			}
		}
	}
	if !restricted {
		return ""
	}
	slices.Sort(lines)
	body := strings.Join(append(slices.Compact(lines), d.deny), "\n    ")
	name := strings.ToLower(string(d.kind)) + "_" + digest(body)
	c.out.Chains[name] = body
	return name
}

// rule makes the lines that let packets of one rule pass: one for each peer and port.
func (c *compiler) rule(
	d direction, one pod, namespace string, peers []networkingv1.NetworkPolicyPeer, wanted []networkingv1.NetworkPolicyPort,
) []string {
	var lines []string
	if len(peers) == 0 {
		peers = []networkingv1.NetworkPolicyPeer{{}}
	}
	if len(wanted) == 0 {
		wanted = []networkingv1.NetworkPolicyPort{{}}
	}
	for _, peer := range peers {
		for _, port := range wanted {
			if port.Port != nil && port.Port.Type == intstr.String && d.kind == networkingv1.PolicyTypeEgress {
				lines = append(lines, c.namedPort(namespace, peer, port)...)
				continue
			}
			for _, match := range portMatches(one, port) {
				lines = append(lines, strings.Join(strings.Fields(c.peerMatch(d, namespace, peer)+" "+match+" return"), " "))
			}
		}
	}
	return lines
}

func (c *compiler) peerMatch(d direction, namespace string, peer networkingv1.NetworkPolicyPeer) string {
	switch {
	case peer.IPBlock != nil:
		match := fmt.Sprintf("ip %s %s", d.peer, peer.IPBlock.CIDR)
		if len(peer.IPBlock.Except) > 0 {
			match += fmt.Sprintf(" ip %s != { %s }", d.peer, strings.Join(peer.IPBlock.Except, ", "))
		}
		return match
	case peer.PodSelector == nil && peer.NamespaceSelector == nil:
		return ""
	}
	var elements []string
	for _, one := range c.selected(namespace, peer) {
		for _, address := range one.addresses {
			elements = append(elements, address.String())
		}
	}
	return fmt.Sprintf("ip %s @%s", d.peer, c.set("pods_"+named(namespace, peer), "ipv4_addr", elements))
}

// namedPort makes the lines for a port that each peer may have at another number.
func (c *compiler) namedPort(
	namespace string, peer networkingv1.NetworkPolicyPeer, port networkingv1.NetworkPolicyPort,
) []string {
	if peer.IPBlock != nil {
		// What is no pod has no names for its ports.
		return nil
	}
	protocol := protocolOf(port)
	var elements []string
	for _, one := range c.selected(namespace, peer) {
		for _, number := range numbers(one, port) {
			for _, address := range one.addresses {
				elements = append(elements, fmt.Sprintf("%s . %d", address, number))
			}
		}
	}
	name := "ports_" + named(namespace, peer, protocol, port.Port.StrVal)
	return []string{fmt.Sprintf("ip daddr . %s dport @%s return", protocol, c.set(name, "ipv4_addr . inet_service", elements))}
}

func (c *compiler) set(name, kind string, elements []string) string {
	slices.Sort(elements)
	c.out.Sets[name] = Set{kind, slices.Compact(elements)}
	return name
}

// selected lists the pods that a peer of a policy in this namespace stands for.
func (c *compiler) selected(namespace string, peer networkingv1.NetworkPolicyPeer) []pod {
	var found []pod
	for _, one := range c.pods {
		if peer.NamespaceSelector != nil {
			if !matches(peer.NamespaceSelector, c.namespaces[one.namespace]) {
				continue
			}
		} else if peer.PodSelector != nil && one.namespace != namespace {
			continue
		}
		if peer.PodSelector == nil || matches(peer.PodSelector, one.labels) {
			found = append(found, one)
		}
	}
	return found
}

func portMatches(one pod, port networkingv1.NetworkPolicyPort) []string {
	switch protocol := protocolOf(port); {
	case port.Protocol == nil && port.Port == nil:
		return []string{""}
	case port.Port == nil:
		return []string{"meta l4proto " + protocol}
	case port.Port.Type == intstr.String:
		var found []string
		for _, number := range numbers(one, port) {
			found = append(found, fmt.Sprintf("%s dport %d", protocol, number))
		}
		return found
	case port.EndPort != nil:
		return []string{fmt.Sprintf("%s dport %d-%d", protocol, port.Port.IntVal, *port.EndPort)}
	default:
		return []string{fmt.Sprintf("%s dport %d", protocol, port.Port.IntVal)}
	}
}

func protocolOf(port networkingv1.NetworkPolicyPort) string {
	if port.Protocol == nil {
		return "tcp"
	}
	return strings.ToLower(string(*port.Protocol))
}

// numbers lists what a pod has at a named port.
func numbers(one pod, port networkingv1.NetworkPolicyPort) []int32 {
	var found []int32
	for _, has := range one.ports {
		protocol := has.Protocol
		if protocol == "" {
			protocol = corev1.ProtocolTCP
		}
		if has.Name == port.Port.StrVal && strings.EqualFold(string(protocol), protocolOf(port)) {
			found = append(found, has.ContainerPort)
		}
	}
	return found
}

// matches tells whether a selector has these labels; one that can't be read has none.
func matches(selector *metav1.LabelSelector, set labels.Set) bool {
	parsed, err := metav1.LabelSelectorAsSelector(selector)
	return err == nil && parsed.Matches(set)
}

func named(parts ...any) string {
	text, err := json.Marshal(parts)
	if err != nil {
		panic(err)
	}
	return digest(string(text))
}

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:6])
}

// String is the ruleset as nft reads it; it replaces the table in one step.
func (r Ruleset) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s { }\ndelete table inet %s\ntable inet %s {\n", table, table, table)
	b.WriteString("  counter refused_egress { }\n  counter refused_ingress { }\n  counter unknown { }\n")
	writeSet(&b, "nodes", Set{"ipv4_addr", r.Nodes})
	for _, name := range slices.Sorted(maps.Keys(r.Sets)) {
		writeSet(&b, name, r.Sets[name])
	}
	for _, name := range slices.Sorted(maps.Keys(r.Chains)) {
		fmt.Fprintf(&b, "  chain %s {\n    %s\n  }\n", name, r.Chains[name])
	}
	b.WriteString("  chain unknown {\n    counter name unknown drop\n  }\n")
	writeMap(&b, "egress", r.Egress)
	writeMap(&b, "ingress", r.Ingress)
	b.WriteString(hooks)
	return b.String()
}

// Packets of connections that were let through pass. What a node itself sends to its pods is in no hook here.
const hooks = `  chain from_pod {
    meta nfproto ipv6 drop
    ip saddr vmap @egress
  }
  chain to_pod {
    ip saddr @nodes return
    ip daddr vmap @ingress
  }
  chain forward {
    type filter hook forward priority filter - 6; policy accept;
    ct state established,related accept
    iifname "cni0" jump from_pod
    oifname "cni0" jump to_pod
  }
  chain input {
    type filter hook input priority filter - 6; policy accept;
    ct state established,related accept
    iifname "cni0" jump from_pod
  }
}
`

func writeSet(b *strings.Builder, name string, set Set) {
	fmt.Fprintf(b, "  set %s {\n    type %s\n", name, set.Type)
	if len(set.Elements) > 0 {
		fmt.Fprintf(b, "    elements = { %s }\n", strings.Join(set.Elements, ", "))
	}
	b.WriteString("  }\n")
}

func writeMap(b *strings.Builder, name string, chains map[netip.Addr]string) {
	fmt.Fprintf(b, "  map %s {\n    type ipv4_addr : verdict\n    elements = { * : goto unknown", name)
	for _, address := range slices.SortedFunc(maps.Keys(chains), netip.Addr.Compare) {
		fmt.Fprintf(b, ", %s : %s", address, verdict(chains[address]))
	}
	b.WriteString(" }\n  }\n")
}

func verdict(chain string) string {
	if chain == "" {
		return "return"
	}
	return "jump " + chain
}
