package mailbox

import (
	"math/bits"
	"slices"

	"imgo/store"
)

// MaxDevices is how many devices a mailbox has room for: one bit each.
const MaxDevices = 64

// Devices are the devices of a user that are known.
type Devices struct{ *facts }

// Find returns a device, or nil. The caller must not change it.
func (ds Devices) Find(name string) *store.MailboxDevice {
	for i := range ds.devices {
		if ds.devices[i].Name == name {
			return &ds.devices[i]
		}
	}
	return nil
}

// Mask returns a device's bit in an entry's Waiting, or 0 if the device is unknown.
func (ds Devices) Mask(name string) uint64 {
	if d := ds.Find(name); d != nil {
		return 1 << d.Bit
	}
	return 0
}

// Names returns the names of the devices that an entry waits for. They are sorted, because two
// routers may have the same devices in a different order.
func (ds Devices) Names(waiting uint64) (names []string) {
	for _, d := range Covered(waiting, ds.devices) {
		names = append(names, d.Name)
	}
	slices.Sort(names)
	return names
}

// knownBefore returns the bits of the devices that were known before the record id.
func (ds Devices) knownBefore(id uint64) (mask uint64) {
	for _, d := range ds.devices {
		if d.Since < id {
			mask |= 1 << d.Bit
		}
	}
	return mask
}

// Restore makes a device known since a record, if it is not, and notes when it was last seen. A
// record that says so was appended at notedMS, which is 0 if that is not known. Times are Unix milliseconds.
// Restore returns nil if there is no room: whoever appends the record names the device that is to
// make room.
func (ds Devices) Restore(name string, since uint64, seenMS, notedMS int64) *store.MailboxDevice {
	d := ds.Find(name)
	if d == nil {
		bit, ok := ds.freeBit()
		if !ok {
			return nil
		}
		ds.devices = append(ds.devices, store.MailboxDevice{Name: name, Bit: bit, Since: since})
		d = &ds.devices[len(ds.devices)-1]
	}
	d.SeenMS, d.NotedMS = max(d.SeenMS, seenMS), max(d.NotedMS, notedMS)
	ds.changed = true
	return d
}

func (ds Devices) freeBit() (bit uint8, ok bool) {
	var taken uint64
	for _, d := range ds.devices {
		taken |= 1 << d.Bit
	}
	free := bits.TrailingZeros64(^taken)
	return uint8(free), free < MaxDevices
}

// Seen notes that a device was connected at a time, Unix milliseconds, unless it was seen later. It
// reports whether that is new.
func (ds Devices) Seen(name string, ms int64) bool {
	d := ds.Find(name)
	if d == nil || d.SeenMS >= ms {
		return false
	}
	d.SeenMS, ds.changed = ms, true
	return true
}

func (ds Devices) remove(name string) {
	ds.devices = slices.DeleteFunc(ds.devices, func(d store.MailboxDevice) bool { return d.Name == name })
	ds.changed = true
}
