package main

import (
	"context"
	"testing"

	"my-plugin/prism"
)

func TestGreet(t *testing.T) {
	answer, err := greet(context.Background(), &prism.Call{}, person{"Ada"})
	if err != nil || answer.Text != "Hello, Ada!" {
		t.Fatalf("answered %v, %v", answer, err)
	}
	if _, err := greet(context.Background(), &prism.Call{}, person{}); err == nil {
		t.Fatal("a person without a name was greeted")
	}
}
