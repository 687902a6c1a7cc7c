// A kit without dependencies: require it with a replace directive, or copy its files into a
// package of yours, as `prism plugin new --language go` does.
module prism/sdks/go

go 1.19
