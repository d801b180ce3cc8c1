from crlhf_ray.cli import main

main()
