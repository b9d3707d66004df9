package outcome

import (
	"fmt"

	"imgo/internal/events"
	"imgo/verify/history"
)

// presenceLocked judges that a user came or went.
func (j *Judge) presenceLocked(stream int, u *user, e Event) {
	s, online := &u.streams[stream], e.Type == events.Online
	if s.online == online {
		j.failLocked(KindPresence, u, nil, stream, e, "it was told before")
	}
	s.online = online
}

// Absent returns where a stream's last word about a user is not what the caller says of the user.
func (j *Judge) Absent(online func(userName string) bool) (all history.Violations) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, u := range j.users {
		is := online(u.name)
		for i, s := range u.streams {
			if s.online != is {
				all = append(all, history.Violation{Kind: KindPresence, User: u.name,
					Detail: fmt.Sprintf("online is %t, %s told %t", is, j.streams[i].Name, s.online)})
			}
		}
	}
	return all
}

// Publishing records that a device is about to send its message with an id for the backend. Its ids are 1, 2, 3 and so on.
func (j *Judge) Publishing(userName, deviceName string, id uint64) {
	j.withDevice(userName, deviceName, func(d *device) { d.published = max(d.published, id) })
}

// Published records that a message for the backend was answered.
func (j *Judge) Published(userName, deviceName string, id uint64) {
	j.withDevice(userName, deviceName, func(d *device) { d.answered = max(d.answered, id) })
}

func (j *Judge) withDevice(userName, deviceName string, do func(*device)) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if u := j.users[userName]; u != nil {
		if i := u.device(deviceName); i >= 0 {
			do(&u.devices[i])
		}
	}
}

// upstreamLocked judges a message for the backend.
func (j *Judge) upstreamLocked(stream int, u *user, e Event) {
	s, i := &u.streams[stream], u.device(e.Data.Device)
	if s.upstream == nil {
		s.upstream = make(map[string]uint64)
	}
	last := s.upstream[e.Data.Device]
	switch {
	case i < 0 || e.Data.ClientID == 0 || e.Data.ClientID > u.devices[i].published:
		j.failLocked(KindInvented, u, nil, stream, e, fmt.Sprintf("no device sent message %d", e.Data.ClientID))
		return
	case e.Data.ClientID <= last:
		j.failLocked(KindTwice, u, nil, stream, e, fmt.Sprintf("message %d, the last was %d", e.Data.ClientID, last))
		return
	case e.Data.ClientID != last+1:
		j.failLocked(KindMissing, u, nil, stream, e, fmt.Sprintf("message %d, the last was %d", e.Data.ClientID, last))
	}
	s.upstream[e.Data.Device] = e.Data.ClientID
}

// Unpublished returns how many devices have an answer to a message for the backend that a stream has not told of.
func (j *Judge) Unpublished() (n int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, u := range j.users {
		n += len(j.unpublished(u))
	}
	return n
}

// unpublished returns the messages for the backend that were answered and not told.
func (j *Judge) unpublished(u *user) (all history.Violations) {
	for _, d := range u.devices {
		for i, s := range u.streams {
			if last := s.upstream[d.name]; last < d.answered {
				all = append(all, history.Violation{Kind: KindMissing, User: u.name, Device: d.name,
					Detail: fmt.Sprintf("upstream.message %d to %d (%s)", last+1, d.answered, j.streams[i].Name)})
			}
		}
	}
	return all
}
