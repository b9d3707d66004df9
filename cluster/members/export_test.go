package members

import "slices"

// Role returns the nodes that have a role and do not leave, in the order of their names.
func (v *View) Role(role string) (list []Node) {
	for _, n := range v.Nodes {
		if !n.Meta.Leaving && slices.Contains(n.Meta.Roles, role) {
			list = append(list, n)
		}
	}
	return list
}
