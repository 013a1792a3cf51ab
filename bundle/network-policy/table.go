// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os/exec"
	"reflect"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// Table is the node's table in the kernel. It stays when this program ends.
type Table struct {
	loaded *Ruleset
}

// Close loads a table that lets no pod reach anything, unless there is one.
func (t *Table) Close() error {
	if exec.Command("nft", "list", "table", "inet", table).Run() == nil {
		return nil
	}
	return t.replace(Ruleset{})
}

// Apply brings the table to these rules: by single elements where only pods come or go, else as a whole.
func (t *Table) Apply(rules Ruleset) error {
	if t.loaded == nil || !t.onlyPods(rules) {
		return t.replace(rules)
	}
	err := t.change(rules)
	if err != nil {
		slog.Warn("the table is loaded anew", "why", err)
		return t.replace(rules)
	}
	t.loaded.Egress, t.loaded.Ingress = rules.Egress, rules.Ingress
	return nil
}

// onlyPods tells whether all that differs is which pods there are. Chains that nobody uses any more may stay.
func (t *Table) onlyPods(rules Ruleset) bool {
	for name := range rules.Chains {
		if _, there := t.loaded.Chains[name]; !there {
			return false
		}
	}
	return reflect.DeepEqual(t.loaded.Sets, rules.Sets) && reflect.DeepEqual(t.loaded.Nodes, rules.Nodes)
}

func (t *Table) replace(rules Ruleset) error {
	command := exec.Command("nft", "--file", "-")
	command.Stdin = bytes.NewBufferString(rules.String())
	if told, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("nft refuses the rules: %w: %s", err, told)
	}
	t.loaded = &rules
	return nil
}

func (t *Table) change(rules Ruleset) error {
	connection, err := nftables.New()
	if err != nil {
		return err
	}
	changed := false
	for name, maps := range map[string][2]map[netip.Addr]string{
		"egress":  {t.loaded.Egress, rules.Egress},
		"ingress": {t.loaded.Ingress, rules.Ingress},
	} {
		set := &nftables.Set{
			Table: &nftables.Table{Name: table, Family: nftables.TableFamilyINet}, Name: name,
			IsMap: true, KeyType: nftables.TypeIPAddr, DataType: nftables.TypeVerdict,
		}
		gone, come := differences(maps[0], maps[1])
		changed = changed || len(gone)+len(come) > 0
		if len(gone) > 0 {
			if err := connection.SetDeleteElements(set, elements(gone)); err != nil {
				return err
			}
		}
		if len(come) > 0 {
			if err := connection.SetAddElements(set, elements(come)); err != nil {
				return err
			}
		}
	}
	if !changed {
		return nil
	}
	return connection.Flush()
}

// differences returns what a map loses and what it gains; a value that changes is both.
func differences(before, after map[netip.Addr]string) (gone, come map[netip.Addr]string) {
	gone, come = maps.Clone(before), maps.Clone(after)
	for address, chain := range before {
		if now, there := after[address]; there && now == chain {
			delete(gone, address)
			delete(come, address)
		}
	}
	return gone, come
}

func elements(chains map[netip.Addr]string) []nftables.SetElement {
	var made []nftables.SetElement
	for address, chain := range chains {
		data := &expr.Verdict{Kind: expr.VerdictJump, Chain: chain}
		if chain == "" {
			data = &expr.Verdict{Kind: expr.VerdictReturn}
		}
		made = append(made, nftables.SetElement{Key: address.AsSlice(), VerdictData: data})
	}
	return made
}
