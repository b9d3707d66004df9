package mailbox_test

import (
	"fmt"
	"testing"

	"imgo/roles/router/mailbox"
)

func TestTooManyDevices(t *testing.T) {
	m := mailbox.New("u")
	for i := range mailbox.MaxDevices + 1 {
		m.NoteDevice(uint64(i+1), fmt.Sprint("d", i), int64(i+1), 1)
	}
	if len(m.Meta().Devices) != mailbox.MaxDevices || m.Devices().Find("d0") == nil || m.Devices().Find("d64") != nil {
		t.Errorf("%d devices; d0 %v, d64 %v", len(m.Meta().Devices), m.Devices().Find("d0"), m.Devices().Find("d64"))
	}
	if _, known := m.Forget(100, "d0", nil); !known || !m.NoteDevice(100, "d64", 1, 1) || m.Devices().Mask("d64") != 1 {
		t.Errorf("the newest has the bit %b", m.Devices().Mask("d64"))
	}
}

func TestDevices(t *testing.T) {
	m := mailbox.New("u")
	ds := m.Devices()
	ds.Restore("phone", 7, 100, 50)
	ds.Restore("laptop", 8, 100, 50)
	if d := ds.Restore("phone", 9, 90, 60); d != ds.Find("phone") || d.Since != 7 || d.SeenMS != 100 || d.NotedMS != 60 {
		t.Errorf("a device that is known became %+v", d)
	}
	if ds.Seen("watch", 1) || ds.Seen("phone", 100) || !ds.Seen("phone", 101) || ds.Find("phone").SeenMS != 101 {
		t.Errorf("seen is %+v", ds.Find("phone"))
	}
	if got := fmt.Sprint(ds.Names(ds.Mask("phone")|ds.Mask("laptop")), ds.Names(ds.Mask("watch"))); got != "[laptop phone] []" {
		t.Errorf("the names are %s", got)
	}
}
