package logic

import (
	"context"

	"imgo/envelope"
	"imgo/internal/wait"
)

// targets is a list of users and the partition of each, which is computed once
// a call.
type targets struct {
	users      []string
	partitions []int32
}

// targets returns users, each once, in their order.
func (o *owners) targets(users []string) targets {
	if len(users) == 1 { // as in most calls
		return targets{users: users, partitions: []int32{o.partition(users[0])}}
	}
	users = unique(users)
	t := targets{users: users, partitions: make([]int32, len(users))}
	for i, user := range users {
		t.partitions[i] = o.partition(user)
	}
	return t
}

// makeTargets returns an empty list with room for n users.
func makeTargets(n int) targets {
	return targets{users: make([]string, 0, n), partitions: make([]int32, 0, n)}
}

func (t *targets) add(user string, partition int32) {
	t.users = append(t.users, user)
	t.partitions = append(t.partitions, partition)
}

func (t *targets) addAll(other targets) {
	t.users = append(t.users, other.users...)
	t.partitions = append(t.partitions, other.partitions...)
}

// unique returns names, each once, in their order.
func unique(names []string) []string {
	if len(names) == 1 {
		return names
	}
	seen := make(map[string]struct{}, len(names))
	out := make([]string, 0, len(names))
	for _, name := range names {
		if _, again := seen[name]; !again {
			seen[name] = struct{}{}
			out = append(out, name)
		}
	}
	return out
}

// want is what a question about users asks for, beside the addresses of their
// sessions.
type want struct {
	key  string // whether this idempotency key was used. Empty means none
	full bool   // the sessions as a whole
	kept bool   // what a kept push would cost the mailboxes
}

// lookup is a question to the owners about some users. It is for one goroutine.
type lookup struct {
	routers Routers
	want    want

	answers map[string]*envelope.UserSessions
	// left is the users without an answer yet, and err is why there is none. An
	// error that will not pass wins over one that may.
	left targets
	err  error
}

// lookup asks the owners about users: which sessions they have and, with an
// idempotency key, whether it was applied for them. It asks again for those
// whose owner cannot say yet, until ctx is done. With an error the answers are
// those that came: a user without an answer has none.
func (o *owners) lookup(ctx context.Context, t targets, w want) (map[string]*envelope.UserSessions, error) {
	q := lookup{routers: o.routers, want: w, answers: make(map[string]*envelope.UserSessions, len(t.users))}
	pause := wait.Backoff{Min: minRetry, Max: maxRetry}
	for {
		q.ask(ctx, t)
		if q.err == nil {
			return q.answers, nil
		}
		if !envelope.IsTemporary(q.err) || pause.Sleep(ctx) != nil {
			return q.answers, attempted("look up users", q.err)
		}
		t = q.left
	}
}

// ask asks once about users.
func (q *lookup) ask(ctx context.Context, t targets) {
	q.left, q.err = targets{}, nil
	if len(t.users) == 1 { // as in most calls: nothing is to be grouped
		router, err := q.routers.Owner(t.partitions[0])
		if err != nil {
			q.failed(t, err)
			return
		}
		q.askOne(ctx, question{router: router, targets: t})
		return
	}
	questions := q.group(t)
	if len(questions) == 1 {
		q.askOne(ctx, questions[0])
		return
	}
	replies := make([]*envelope.LookupReply, len(questions))
	errs := make([]error, len(questions))
	_ = inParallel(len(questions), parallelCalls, func(i int) error {
		replies[i], errs[i] = questions[i].ask(ctx, q.want)
		return nil // the errors are in errs
	})
	for i, question := range questions {
		q.answered(question.targets, replies[i], errs[i])
	}
}

func (q *lookup) askOne(ctx context.Context, one question) {
	reply, err := one.ask(ctx, q.want)
	q.answered(one.targets, reply, err)
}

// question is the users that one router is asked about: some of those that it
// owns, at most lookupChunk.
type question struct {
	router  Router
	targets targets
}

func (o question) ask(ctx context.Context, w want) (*envelope.LookupReply, error) {
	return o.router.Lookup(ctx, &envelope.LookupRequest{Users: o.targets.users, IdempotencyKey: w.key, Full: w.full, Kept: w.kept})
}

// group groups users by owner. Users whose partition has no owner fail.
func (q *lookup) group(t targets) (questions []question) {
	owners := make(map[int32]Router) // nil: the partition has none
	newest := make(map[Router]int)   // the place of a router's newest question
	for i, p := range t.partitions {
		owner, known := owners[p]
		if !known {
			var err error
			if owner, err = q.routers.Owner(p); err != nil {
				q.blame(err)
			}
			owners[p] = owner
		}
		if owner == nil {
			q.left.add(t.users[i], p)
			continue
		}
		at, asked := newest[owner]
		if !asked || len(questions[at].targets.users) == lookupChunk {
			at = len(questions)
			newest[owner] = at
			questions = append(questions, question{router: owner, targets: makeTargets(min(len(t.users)-i, lookupChunk))})
		}
		questions[at].targets.add(t.users[i], p)
	}
	return questions
}

// answered takes a router's answer about users.
func (q *lookup) answered(t targets, reply *envelope.LookupReply, err error) {
	if err != nil {
		q.failed(t, err)
		return
	}
	for _, u := range reply.GetUsers() {
		q.answers[u.GetUser()] = u
	}
	for _, user := range t.users {
		if q.answers[user] == nil { // left out: nothing is known of the user
			q.answers[user] = &envelope.UserSessions{User: user}
		}
	}
}

func (q *lookup) failed(t targets, err error) {
	q.left.addAll(t)
	q.blame(err)
}

func (q *lookup) blame(err error) {
	if q.err == nil || envelope.IsTemporary(q.err) {
		q.err = err
	}
}
