package kafkatest_test

import (
	"context"
	"testing"

	"imgo/cluster/bus/kafkatest"
)

// TestRealStartsAgain kills one of three brokers, then stops all of them.
func TestRealStartsAgain(t *testing.T) {
	k := kafkatest.NewReal(t, kafkatest.RealOptions{Brokers: 3, Memory: "256M"})
	if n := len(k.Brokers()); n != 3 || k.Count() != 3 {
		t.Fatalf("%d addresses, Count %d; want 3", n, k.Count())
	}
	for _, test := range []struct {
		name string
		end  func() error
	}{
		{"killed", func() error { return k.Kill(1) }},
		{"stopped", k.Stop},
	} {
		if err := test.end(); err != nil {
			t.Fatalf("%s: %v", test.name, err)
		}
		t.Logf("%s", test.name)
		if err := k.Start(context.Background()); err != nil {
			t.Fatalf("start after %s: %v", test.name, err)
		}
		t.Logf("started again")
	}
}
