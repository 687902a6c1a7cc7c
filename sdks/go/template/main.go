// my-plugin is a plugin of the Prism data-access proxy.
package main

import (
	"context"

	"my-plugin/prism"
)

type person struct {
	Name string `json:"name"`
}

type greeting struct {
	Text string `json:"text"`
}

func greet(_ context.Context, _ *prism.Call, params person) (greeting, error) {
	if params.Name == "" {
		return greeting{}, prism.Errorf(prism.InvalidArgument, "name is missing")
	}
	return greeting{"Hello, " + params.Name + "!"}, nil
}

func main() {
	prism.Serve("my-plugin", "0.1.0", prism.Operations{
		"greet": prism.Unary(greet, prism.Declaration{
			Idempotent: true, Access: prism.Read, Description: "Greet somebody.",
			ParamsSchema: `{"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}`,
			ResultSchema: `{"type": "object", "properties": {"text": {"type": "string"}}}`,
		}),
	})
}
