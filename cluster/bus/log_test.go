package bus_test

import (
	"testing"

	"imgo/cluster/bus"
	"imgo/store/logtest"
)

// conform runs the conformance suite of logs against the brokers.
func conform(t *testing.T, brokers []string, appends int) {
	opened := map[logtest.Log]string{}
	logtest.Run(t, func(t *testing.T) logtest.Log {
		p := prefix()
		l := kept(t, open(t, options(brokers, p)))
		opened[l] = p
		return l
	}, logtest.Options{
		MaxValue: bus.MaxRecordBytes, Appends: appends,
		Reopen: func(t *testing.T, l logtest.Log) logtest.Log {
			p := opened[l]
			if err := l.(*bus.Log).Close(); err != nil {
				t.Fatalf("Close: %v", err)
			}
			// Another process, which does not know the number of partitions.
			again, err := open(t, options(brokers, p)).Log(testContext(t), bus.TopicOptions{Name: "kept", Numbered: true})
			if err != nil {
				t.Fatalf("reopen: %v", err)
			}
			opened[again] = p
			return again
		},
		Close: func(t *testing.T, l logtest.Log) {
			if err := l.(*bus.Log).Close(); err != nil {
				t.Fatalf("Close: %v", err)
			}
		},
	})
}

func TestConformance(t *testing.T) { conform(t, fake(t).Brokers(), 100) }
